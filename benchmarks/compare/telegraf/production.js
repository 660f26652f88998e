// The session in Redis, by the package that telegraf's documentation names; errors are logged.
import { Redis } from "@telegraf/session/redis";
import { createClient } from "redis";
import { start } from "./counter.js";

const client = createClient({ url: process.env.REDIS_URL });
client.on("error", console.error);
client.unref(); // the process ends when the bot has

await start({
  store: Redis({ client }),
  catch: (error, ctx) => console.error(`Update ${ctx.update.update_id}:`, error),
});
