// telegraf as it is by default: the session in memory; an error that is not caught ends the process.
import { start } from "./counter.js";

await start({});
