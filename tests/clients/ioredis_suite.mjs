// The suite of ioredis, and of iovalkey, which began as a copy of it and keeps its interface. Both speak RESP2.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { bare, eventually, everyByte, fresh, host, large, modes, otherMode, port, raw, setMode, survivesKill } from "./common.mjs";

export function suite(name, Redis) {
    for (const mode of modes)
        describe(`${name}, ${mode}`, () => inMode(mode, Redis));
}

function inMode(mode, Redis) {
    const open = [];
    const connect = (options = {}) => {
        const client = new Redis({ host, port, retryStrategy: () => 50, maxRetriesPerRequest: null, ...options });
        client.on("error", () => {}); // a lost connection; the commands say what became of them
        open.push(client);
        return client;
    };
    let client;
    before(async () => {
        await setMode(mode);
        client = connect();
    });
    after(() => open.forEach((c) => c.disconnect()));

    test("connects and is ready", async () => {
        assert.equal(await client.ping(), "PONG");
        assert.match(await client.info("server"), /valkey_version:/);
        await client.client("SETNAME", "suite");
        assert.equal(await client.client("GETNAME"), "suite");
    });

    test("SET, GET and their kin", async () => {
        const key = fresh("string");
        assert.equal(await client.set(key, "1"), "OK");
        assert.equal(await client.incrby(key, 41), 42);
        assert.equal(await client.get(key), "42");
        assert.equal(await client.set(key, "x", "NX"), null);
        assert.equal(await client.set(key, "y", "EX", 100, "GET"), "42");
        const left = await client.pttl(key);
        assert.ok(left > 90_000 && left <= 100_000, `PTTL ${left}`);
        assert.equal(await client.getdel(key), "y");
        assert.equal(await client.get(key), null);
        const hash = fresh("hash");
        assert.equal(await client.hset(hash, { a: 1, b: 2 }), 2);
        assert.deepEqual(await client.hgetall(hash), { a: "1", b: "2" });
        const sorted = fresh("zset");
        await client.zadd(sorted, 2, "b", 1, "a");
        assert.deepEqual(await client.zrange(sorted, 0, -1, "WITHSCORES"), ["a", "1", "b", "2"]);
        await assert.rejects(client.incr(hash), /WRONGTYPE/);
    });

    test("pipeline: replies in order, errors in their places", async () => {
        const key = fresh("pipe");
        const pipeline = client.pipeline();
        for (let i = 0; i < 300; i++) {
            pipeline.set(`${key}:${i}`, i);
            pipeline.get(`${key}:${i}`);
            if (i === 150)
                pipeline.lpush(`${key}:0`, "wrong type");
        }
        const results = await pipeline.exec();
        assert.equal(results.length, 601);
        assert.match(results[302][0].message, /WRONGTYPE/);
        results.splice(302, 1);
        for (let i = 0; i < 300; i++)
            assert.deepEqual(results.slice(2 * i, 2 * i + 2), [[null, "OK"], [null, String(i)]]);
    });

    test("MULTI, DISCARD and WATCH", async () => {
        const key = fresh("multi");
        assert.deepEqual(await client.multi().set(key, 1).incr(key).get(key).exec(), [[null, "OK"], [null, 2], [null, "2"]]);
        const own = connect(); // step by step, on a connection of its own
        await own.multi({ pipeline: false });
        assert.equal(await own.set(key, "never"), "QUEUED");
        assert.equal(await own.discard(), "OK");
        await own.watch(key);
        await client.set(key, "other");
        assert.equal(await own.multi().set(key, "lost").exec(), null);
        assert.equal(await client.get(key), "other");
        await own.watch(key);
        assert.deepEqual(await own.multi().set(key, "won").exec(), [[null, "OK"]]);
        assert.equal(await client.get(key), "won");
    });

    test("EVAL, EVALSHA and defined commands", async () => {
        const key = fresh("script");
        const body = "server.call('SET', KEYS[1], ARGV[1]); return {KEYS[1], ARGV[1], 7}";
        assert.deepEqual(await client.eval(body, 1, key, "v"), [key, "v", 7]);
        await assert.rejects(client.evalsha("0".repeat(40), 1, key), /NOSCRIPT/);
        const sha = await client.script("LOAD", "return redis.call('INCRBY', KEYS[1], ARGV[1])");
        assert.equal(await client.evalsha(sha, 1, fresh("script"), 5), 5);
        client.defineCommand("appendTwice", { numberOfKeys: 1, lua: `redis.call('APPEND', KEYS[1], ARGV[1]) -- ${key}
            return redis.call('APPEND', KEYS[1], ARGV[1])` });
        assert.equal(await client.appendTwice(key, "w"), 3); // EVALSHA, NOSCRIPT, EVAL
        assert.equal(await client.appendTwice(key, "w"), 5);
        assert.equal(await client.get(key), "vwwww");
    });

    test("publish and subscribe", async () => {
        const subscriber = connect();
        const channel = fresh("channel");
        const got = [];
        subscriber.on("message", (c, m) => got.push([c, m]));
        subscriber.on("pmessage", (p, c, m) => got.push([p, c, m]));
        assert.equal(await subscriber.subscribe(channel), 1);
        assert.equal(await subscriber.psubscribe(`${channel}*`), 2);
        assert.equal(await client.publish(channel, "one"), 2);
        assert.equal(await client.publish(`${channel}x`, "two"), 1);
        await eventually("messages", async () => got.length === 3);
        assert.deepEqual(got, [[channel, "one"], [`${channel}*`, channel, "one"], [`${channel}*`, `${channel}x`, "two"]]);
        await subscriber.unsubscribe(channel); // without a name, ioredis waits for ever when patterns remain
        await subscriber.punsubscribe(`${channel}*`);
        assert.equal(await subscriber.set(channel, "a usual connection again"), "OK");
    });

    test("blocking pops", async () => {
        const waiting = connect();
        const list = fresh("list");
        const popped = waiting.blpop(list, 20);
        await eventually("blocked", async () => /blocked_clients:[1-9]/.test(await raw("INFO", "clients")));
        await client.rpush(list, "pushed");
        assert.deepEqual(await popped, [list, "pushed"]);
        assert.equal(await waiting.blpop(list, 0.05), null);
        await client.rpush(list, "a", "b");
        assert.equal(await waiting.blmove(list, `${list}2`, "LEFT", "RIGHT", 1), "a");
        assert.deepEqual(await client.lrange(`${list}2`, 0, -1), ["a"]);
        await client.zadd(`${list}z`, 1, "m");
        assert.deepEqual(await waiting.bzpopmin(`${list}z`, 1), [`${list}z`, "m", "1"]);
    });

    test("streams with a consumer group", async () => {
        const stream = fresh("stream");
        assert.equal(await client.xgroup("CREATE", stream, "g", "$", "MKSTREAM"), "OK");
        const waiting = connect();
        const read = waiting.xreadgroup("GROUP", "g", "alice", "COUNT", 10, "BLOCK", 20000, "STREAMS", stream, ">");
        const id = await client.xadd(stream, "*", "field", "value");
        assert.match(id, /^\d+-\d+$/);
        assert.deepEqual(await read, [[stream, [[id, ["field", "value"]]]]]);
        assert.equal((await client.xpending(stream, "g"))[0], 1);
        const [, claimed] = await client.xautoclaim(stream, "g", "bob", 0, "0");
        assert.deepEqual(claimed, [[id, ["field", "value"]]]);
        assert.equal(await client.xack(stream, "g", id), 1);
        assert.equal(await client.xreadgroup("GROUP", "g", "bob", "BLOCK", 20, "STREAMS", stream, ">"), null);
        assert.equal(await client.xlen(stream), 1);
    });

    test("several databases", async () => {
        const three = connect({ db: 3 });
        const key = fresh("db");
        await Promise.all([client.set(key, "zero"), three.set(key, "three")]);
        assert.equal(await client.get(key), "zero");
        assert.equal(await three.get(key), "three");
        assert.deepEqual((await three.pipeline().select(5).set(key, "five").select(3).get(key).exec()).map((r) => r[1]),
            ["OK", "OK", "OK", "three"]);
        assert.equal(await three.move(key, 7), 1);
        await three.select(7);
        assert.equal(await three.get(key), "three");
        await three.select(5);
        assert.equal(await three.get(key), "five");
    });

    test("binary and large values", async () => {
        const key = Buffer.concat([Buffer.from(fresh("binary")), everyByte]);
        await client.set(key, everyByte);
        assert.deepEqual(await client.getBuffer(key), everyByte);
        await client.set(key, large);
        assert.ok((await client.getBuffer(key)).equals(large));
        assert.equal(await client.append(key, "end"), large.length + 3);
        const field = fresh("hash");
        await client.hset(field, key, everyByte);
        assert.deepEqual(await client.hgetBuffer(field, key), everyByte);
        await client.set(field, "");
        assert.equal(await client.get(field), "");
    });

    test("many clients at once get their own replies", async () => {
        const key = fresh("shared");
        const clients = Array.from({ length: 20 }, () => connect());
        const seen = await Promise.all(clients.map(async (c, n) => {
            const mine = [];
            for (let i = 0; i < 50; i++) {
                mine.push(await c.incr(key));
                await c.set(`${key}:${n}`, i);
                assert.equal(await c.get(`${key}:${n}`), String(i));
            }
            return mine;
        }));
        assert.equal(new Set(seen.flat()).size, 1000);
        assert.equal(await client.get(key), "1000");
    });

    test("a connection chooses its durability", { skip: bare }, async () => {
        const own = connect();
        assert.equal(await own.call("CLIENT", "DURABILITY", otherMode(mode)), "OK");
        const key = fresh("choice");
        assert.equal(await own.set(key, mode), "OK");
        assert.equal(await client.get(key), mode);
        assert.equal(await own.call("CLIENT", "DURABILITY", "DEFAULT"), "OK");
        await assert.rejects(own.call("CLIENT", "DURABILITY", "MAYBE"));
    });

    test("goes on after kill -9 of Valkey", { skip: bare }, async () => {
        const subscriber = connect();
        const channel = fresh("channel");
        let messages = 0;
        subscriber.on("message", () => messages++);
        await subscriber.subscribe(channel);
        await survivesKill(mode, {
            set: (k, v) => client.set(k, v),
            get: (k) => client.get(k),
            reopened: () => eventually("subscribed again", async () => (await client.publish(channel, "m")) && messages > 0),
        });
    });
}
