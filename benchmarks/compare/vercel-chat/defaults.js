// Chat SDK as it is by default: a message that comes while another of its conversation is handled is dropped.
import { createMemoryState } from "@chat-adapter/state-memory";
import { start } from "./counter.js";

await start({ state: createMemoryState() });
