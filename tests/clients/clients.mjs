// The clients that Node's programs use, against a Redis door: node clients.mjs PORT. Ends with status 1 at the first
// answer that is not as it should be.
import assert from "node:assert/strict";
import Redis from "ioredis";
import { createClient } from "redis";

const port = Number(process.argv[2]);

async function withIoredis() {
  const redis = new Redis({ port, connectionName: "ioredis", lazyConnect: true });
  await redis.connect();
  assert.equal(await redis.set("io:a", "1", "EX", 100), "OK");
  assert.equal(await redis.incr("io:a"), 2);
  assert.equal(await redis.get("io:a"), "2");
  assert.deepEqual(await redis.mget("io:a", "io:none"), ["2", null]);
  const replies = await redis.pipeline().set("io:b", "x").append("io:b", "y").get("io:b").exec();
  assert.deepEqual(replies.map(([, reply]) => reply), ["OK", 2, "xy"]);
  const found = [];
  for await (const keys of redis.scanStream({ match: "io:*" })) found.push(...keys);
  assert.deepEqual(found.sort(), ["io:a", "io:b"]);
  await assert.rejects(() => redis.multi({ pipeline: false }), /one key at a time/);
  assert.equal(await redis.quit(), "OK");
}

async function withNodeRedis(RESP) {
  const client = createClient({ socket: { port }, RESP, name: `node-redis-${RESP}` });
  client.on("error", (error) => {
    throw error;
  });
  await client.connect();
  assert.equal(await client.set("n:a", "1", { EX: 100 }), "OK");
  assert.equal(await client.incr("n:a"), 2);
  assert.equal(await client.get("n:a"), "2");
  assert.deepEqual(await client.mGet(["n:a", "n:none"]), ["2", null]);
  assert.equal(await client.expire("n:a", 50), 1);
  assert.equal(await client.ttl("n:a"), 50);
  const [first, second] = await Promise.all([client.set("n:b", "x"), client.get("n:b")]);
  assert.deepEqual([first, second], ["OK", "x"]);
  const found = [];
  for await (const keys of client.scanIterator({ MATCH: "n:*" })) found.push(...[keys].flat());
  assert.deepEqual(found.sort(), ["n:a", "n:b"]);
  await assert.rejects(() => client.multi().set("n:a", "3").exec());
  assert.equal(await client.del(["n:a", "n:b"]), 2);
  await client.close();
}

await withIoredis();
await withNodeRedis(2);
await withNodeRedis(3);
console.log("all is well");
