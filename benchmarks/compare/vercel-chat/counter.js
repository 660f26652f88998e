// Counts the messages of each conversation in the thread state of Chat SDK.
import { setTimeout as sleep } from "node:timers/promises";
import { serve } from "@hono/node-server";
import { createTelegramAdapter } from "@chat-adapter/telegram";
import { Chat } from "chat";
import { Hono } from "hono";

const { BOT_TOKEN, TELEGRAM_API_URL, WEBHOOK_URL, PORT } = process.env;

export async function start({ post = (thread, text) => thread.post(text), ...options }) {
  const telegram = createTelegramAdapter({
    apiUrl: TELEGRAM_API_URL,
    botToken: BOT_TOKEN,
    secretToken: "a-secret-token",
    mode: WEBHOOK_URL ? "webhook" : "polling",
  });
  const bot = new Chat({ userName: "test_bot", adapters: { telegram }, logger: "warn", ...options });

  async function count(thread, message) {
    const [name, seconds] = message.text.split(" ");
    const { seen = [] } = (await thread.state) ?? {};
    await sleep(1000 * seconds); // the call of a model, or of another service
    seen.push(name);
    await thread.setState({ seen });
    await post(thread, `${name} #${seen.length}`);
  }

  bot.onDirectMessage(async (thread, message, channel, context) => {
    for (const each of [...(context?.skipped ?? []), message]) await count(thread, each);
  });

  // audit
  bot.onSlashCommand("/export", async ({ channel }) => {
    const { seen = [] } = (await bot.thread(channel.id).state) ?? {};
    const data = Buffer.from(JSON.stringify({ state: { effects: seen } }));
    await channel.post({ markdown: "", files: [{ data, filename: "kept.json", mimeType: "application/json" }] });
  });
  // end of audit

  await bot.initialize();
  if (WEBHOOK_URL) {
    await serveWebhook(bot);
  } else {
    process.once("SIGTERM", () => bot.shutdown().finally(() => process.exit()));
  }
}

async function serveWebhook(bot) {
  const running = new Set();
  const waitUntil = (task) => running.add(task.finally(() => running.delete(task)));
  const app = new Hono();
  app.post(new URL(WEBHOOK_URL).pathname, ({ req }) => bot.webhooks.telegram(req.raw, { waitUntil }));
  const server = serve({ fetch: app.fetch, hostname: "127.0.0.1", port: Number(PORT) });
  process.once("SIGTERM", async () => {
    server.close();
    await Promise.allSettled(running);
    await bot.shutdown();
    process.exit();
  });
  await fetch(`${TELEGRAM_API_URL}/bot${BOT_TOKEN}/setWebhook`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ url: WEBHOOK_URL, secret_token: "a-secret-token" }),
  });
}
