// Ask for a prediction with amqplib: node ask.js price '{"pair": "ETH/EUR"}'. AMQP_URL says where.
// npm install amqplib
const amqp = require("amqplib");
const { randomUUID } = require("node:crypto");

const TIMEOUT_MS = 10_000;

async function ask(url, model, features) {
  const connection = await amqp.connect(url);
  try {
    const channel = await connection.createConfirmChannel();
    const { queue } = await channel.assertQueue("", { exclusive: true });
    const correlationId = randomUUID();
    const reply = new Promise((resolve, reject) => {
      setTimeout(() => reject(new Error(`no answer from ${model} within ${TIMEOUT_MS} ms`)), TIMEOUT_MS).unref();
      // A model that nobody serves: the request comes back, and is not a silence.
      channel.on("return", () => reject(new Error(`no queue takes requests for ${model}`)));
      channel.consume(
        queue,
        (message) => {
          if (message?.properties.correlationId !== correlationId) return;
          const status = message.properties.headers["cache-status"];
          resolve({ ...JSON.parse(message.content.toString()), "cache-status": status });
        },
        { noAck: true },
      );
    });
    channel.publish("", `predictions.${model}`, Buffer.from(features), {
      contentType: "application/json",
      replyTo: queue,
      correlationId,
      expiration: String(TIMEOUT_MS),
      headers: { deadline: String(Date.now() + TIMEOUT_MS) },
      mandatory: true,
    });
    return await reply;
  } finally {
    await connection.close();
  }
}

ask(process.env.AMQP_URL ?? "amqp://guest:guest@localhost/%2F", process.argv[2], process.argv[3]).then(
  (reply) => {
    console.log(JSON.stringify(reply));
    process.exitCode = "error" in reply ? 1 : 0;
  },
  (error) => {
    console.error(`no answer: ${error.message}`);
    process.exitCode = 1;
  },
);
