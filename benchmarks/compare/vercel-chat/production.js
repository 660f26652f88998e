// State in Redis, the strategy that loses no message, and a refused one posted again, as the documentation advises.
import { setTimeout as sleep } from "node:timers/promises";
import { createRedisState } from "@chat-adapter/state-redis";
import { start } from "./counter.js";

async function post(thread, text) {
  try {
    await thread.post(text);
  } catch (error) {
    if (error.code !== "RATE_LIMITED") return console.error("Not sent:", error);
    await sleep(1000 * (error.retryAfter ?? 5));
    await thread.post(text).catch((error) => console.error("Not sent:", error));
  }
}

await start({ post, state: createRedisState(), concurrency: { strategy: "queue", maxQueueSize: 1000 } });
