// Counts each user's messages in grammY's session.
import { setTimeout as sleep } from "node:timers/promises";
import express from "express";
import { Bot, GrammyError, HttpError, InputFile, webhookCallback } from "grammy";

export const { REDIS_URL, WEBHOOK_URL, PORT } = process.env;

export function createBot() {
  return new Bot(process.env.BOT_TOKEN, { client: { apiRoot: process.env.TELEGRAM_API_URL } });
}

export const initial = () => ({ seen: [] });

export function addHandlers(bot) {
  // audit
  bot.command("export", async (ctx) => {
    const kept = JSON.stringify({ state: { effects: ctx.session.seen } });
    await ctx.replyWithDocument(new InputFile(Buffer.from(kept), "kept.json"));
  });
  // end of audit

  bot.on("message:text", async (ctx) => {
    const [name, seconds] = ctx.message.text.split(" ");
    await sleep(1000 * seconds); // the call of a model, or of another service
    ctx.session.seen.push(name);
    await ctx.reply(`${name} #${ctx.session.seen.length}`);
  });

  bot.catch(({ ctx, error }) => {
    console.error(`Error while handling update ${ctx.update.update_id}:`);
    if (error instanceof GrammyError) console.error("Error in request:", error.description);
    else if (error instanceof HttpError) console.error("Could not contact Telegram:", error);
    else console.error("Unknown error:", error);
  });
}

export async function serve(bot) {
  const app = express();
  app.use(express.json());
  app.use(webhookCallback(bot, "express"));
  const server = app.listen(PORT, "127.0.0.1");
  process.once("SIGTERM", () => server.close());
  await bot.api.setWebhook(WEBHOOK_URL);
}
