"""The conformance kit: what a rendered bot promises, as tests that run inside it.

`./do prove FOLDER` copies a bot, puts this package into the copy as `suite/`, and runs what applies there.
The owner's agent, routers and texts are replaced by the kit's own (`owner.py`), so none of their edits
decides a test. `./do torture FOLDER` is the exception: it keeps them, and puts the owner's own agent under
fire.

What depends on the engine is proven in a bot of each engine (`--part engine`):

    contract/      what every store does, and what a turn does with it
    durability/    restart, faults, processes: every engine that outlives the process
    engines/       what one engine promises besides, what a turn costs on it, and its harness
    dev_servers/   the server for development, of engines that bring one
    providers/     one cloud provider, in a bot of that provider
    torture/       everything goes wrong at once, and the books have to balance

What does not is proven once, in a bot of any engine that outlives the process (`--part once`):

    behaviour/     commands, texts, polling, webhook, outbox, errors, logs, health, operation, command line
    flow/          the example of a conversation in steps, as the template has it
    own/           the kit itself: the rules of its Telegram, torture's books, the list of clauses

Without `--part`, all of it runs. `parts.py` decides what applies; whatever does not is named in the end, with
the reason. `clauses.py` lists every promise: tests carry `@pytest.mark.clause("id")`, and `./do prove --list`
prints them. `support/` runs bots in the test's event loop and in processes of their own.
"""
