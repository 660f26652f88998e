// grammY as it is by default: the session in memory, updates one after another.
import { session } from "grammy";
import { addHandlers, createBot, initial, serve, WEBHOOK_URL } from "./counter.js";

const bot = createBot();
bot.use(session({ initial }));
addHandlers(bot);
if (WEBHOOK_URL) {
  await serve(bot);
} else {
  process.once("SIGTERM", () => bot.stop());
  await bot.start();
}
