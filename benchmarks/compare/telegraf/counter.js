// Counts each user's messages in telegraf's session.
import { setTimeout as sleep } from "node:timers/promises";
import { session, Telegraf } from "telegraf";
import { message } from "telegraf/filters";

export async function start(options) {
  const { BOT_TOKEN, TELEGRAM_API_URL, WEBHOOK_URL, PORT } = process.env;
  const bot = new Telegraf(BOT_TOKEN, { telegram: { apiRoot: TELEGRAM_API_URL } });
  bot.use(session({ defaultSession: () => ({ seen: [] }), ...options }));

  // audit
  bot.command("export", async (ctx) => {
    const source = Buffer.from(JSON.stringify({ state: { effects: ctx.session.seen } }));
    await ctx.replyWithDocument({ source, filename: "kept.json" });
  });
  // end of audit

  bot.on(message("text"), async (ctx) => {
    const [name, seconds] = ctx.message.text.split(" ");
    await sleep(1000 * seconds); // the call of a model, or of another service
    ctx.session.seen.push(name);
    await ctx.reply(`${name} #${ctx.session.seen.length}`);
  });

  if (options.catch) bot.catch(options.catch);

  process.once("SIGINT", () => bot.stop("SIGINT"));
  process.once("SIGTERM", () => bot.stop("SIGTERM"));
  if (!WEBHOOK_URL) return bot.launch();
  const { hostname: domain, pathname: path } = new URL(WEBHOOK_URL);
  return bot.launch({ webhook: { domain, path, port: Number(PORT), host: "127.0.0.1" } });
}
