// The deployment checklist of grammY's documentation: session in Redis, sequentialize, runner, auto-retry.
import { autoRetry } from "@grammyjs/auto-retry";
import { run, sequentialize } from "@grammyjs/runner";
import { RedisAdapter } from "@grammyjs/storage-redis";
import { session } from "grammy";
import { Redis } from "ioredis";
import { addHandlers, createBot, initial, REDIS_URL, serve, WEBHOOK_URL } from "./counter.js";

const redis = new Redis(REDIS_URL);
redis.on("error", console.error);

const getSessionKey = (ctx) => ctx.chat?.id.toString();

const bot = createBot();
bot.api.config.use(autoRetry());
bot.use(sequentialize(getSessionKey));
bot.use(session({ initial, getSessionKey, storage: new RedisAdapter({ instance: redis }) }));
addHandlers(bot);
if (WEBHOOK_URL) {
  await serve(bot);
  process.once("SIGTERM", () => redis.quit());
} else {
  const runner = run(bot);
  process.once("SIGTERM", async () => {
    if (runner.isRunning()) await runner.stop();
    await redis.quit();
  });
}
