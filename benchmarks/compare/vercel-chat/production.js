// State in Redis, and the strategy that the documentation advises where no message may be lost.
import { createRedisState } from "@chat-adapter/state-redis";
import { start } from "./counter.js";

await start({ state: createRedisState(), concurrency: { strategy: "queue", maxQueueSize: 1000 } });
