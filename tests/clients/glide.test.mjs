// Valkey GLIDE, in RESP2 and RESP3. It has one connection per client, made by its own native core; in RESP2 it has no pub/sub.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import {
    Batch, Decoder, GlideClient, GlideClientConfiguration, InfoOptions, ListDirection, Logger, ProtocolVersion, Script, TimeUnit,
} from "@valkey/valkey-glide";
import { bare, eventually, everyByte, fresh, host, large, modes, otherMode, port, raw, setMode, survivesKill } from "./common.mjs";

for (const mode of modes)
    for (const protocol of [2, 3])
        describe(`GLIDE, ${mode}, RESP${protocol}`, () => suite(mode, protocol));

const { Exact, Pattern } = GlideClientConfiguration.PubSubChannelModes;
Logger.init("off"); // else it writes a line for each error reply
const bytes = { decoder: Decoder.Bytes };

function suite(mode, protocol) {
    const open = [];
    const connect = async (options = {}) => {
        const client = await GlideClient.createClient({
            addresses: [{ host, port }],
            protocol: protocol === 3 ? ProtocolVersion.RESP3 : ProtocolVersion.RESP2,
            requestTimeout: 10_000,
            connectionBackoff: { numberOfRetries: 5, factor: 10, exponentBase: 2 },
            ...options,
        });
        open.push(client);
        return client;
    };
    let client;
    before(async () => {
        await setMode(mode);
        client = await connect({ clientName: "suite" });
    });
    after(() => open.forEach((c) => c.close()));

    test("connects", async () => {
        assert.equal(await client.ping(), "PONG");
        assert.equal(await client.clientGetName(), "suite");
        assert.match(await client.info([InfoOptions.Server]), /valkey_version:/);
        assert.ok((await client.clientId()) > 0);
    });

    test("SET, GET and their kin", async () => {
        const key = fresh("string");
        assert.equal(await client.set(key, "1"), "OK");
        assert.equal(await client.incrBy(key, 41), 42);
        assert.equal(await client.get(key), "42");
        assert.equal(await client.set(key, "x", { conditionalSet: "onlyIfDoesNotExist" }), null);
        assert.equal(await client.set(key, "y", { expiry: { type: TimeUnit.Seconds, count: 100 }, returnOldValue: true }), "42");
        const left = await client.pttl(key);
        assert.ok(left > 90_000 && left <= 100_000, `PTTL ${left}`);
        assert.equal(await client.getdel(key), "y");
        assert.equal(await client.get(key), null);
        const hash = fresh("hash");
        assert.equal(await client.hset(hash, { a: "1", b: "2" }), 2);
        assert.deepEqual(Object.fromEntries((await client.hgetall(hash)).map((e) => [e.field, e.value])), { a: "1", b: "2" });
        const sorted = fresh("zset");
        await client.zadd(sorted, { b: 2.5, a: 1 });
        assert.deepEqual(await client.zrangeWithScores(sorted, { start: 0, end: -1 }),
            [{ element: "a", score: 1 }, { element: "b", score: 2.5 }]);
        await client.sadd(`${sorted}s`, ["x", "y"]);
        assert.deepEqual(await client.smembers(`${sorted}s`), new Set(["x", "y"]));
        await assert.rejects(client.incr(hash), /wrong kind of value|WRONGTYPE/i);
    });

    test("pipeline: replies in order, errors in their places", async () => {
        const key = fresh("pipe");
        const batch = new Batch(false);
        for (let i = 0; i < 300; i++)
            batch.set(`${key}:${i}`, String(i)).get(`${key}:${i}`).lpush(`${key}:${i}`, ["wrong type"]);
        const replies = await client.exec(batch, false);
        assert.equal(replies.length, 900);
        for (let i = 0; i < 300; i++) {
            assert.deepEqual(replies.slice(3 * i, 3 * i + 2), ["OK", String(i)]);
            assert.ok(replies[3 * i + 2] instanceof Error);
        }
        const alone = await Promise.all(Array.from({ length: 200 }, (_, i) => client.get(`${key}:${i}`)));
        assert.deepEqual(alone, Array.from({ length: 200 }, (_, i) => String(i)));
    });

    test("MULTI and WATCH", async () => {
        const key = fresh("multi");
        assert.deepEqual(await client.exec(new Batch(true).set(key, "1").incr(key).get(key), true), ["OK", 2, "2"]);
        const own = await connect();
        assert.equal(await own.watch([key]), "OK");
        await client.set(key, "other");
        assert.equal(await own.exec(new Batch(true).set(key, "lost"), true), null);
        assert.equal(await client.get(key), "other");
        await own.watch([key]);
        assert.equal(await own.unwatch(), "OK");
        await own.watch([key]);
        assert.deepEqual(await own.exec(new Batch(true).set(key, "won"), true), ["OK"]);
        assert.equal(await client.get(key), "won");
    });

    test("EVAL and EVALSHA", async () => {
        const key = fresh("script");
        const script = new Script(`server.call('SET', KEYS[1], ARGV[1]); return {KEYS[1], ARGV[1], 7} -- ${key}`);
        for (const value of ["v", "w"]) // first NOSCRIPT and a load, then found
            assert.deepEqual(await client.invokeScript(script, { keys: [key], args: [value] }), [key, value, 7]);
        assert.deepEqual(await client.scriptExists([script.getHash(), "0".repeat(40)]), [true, false]);
        script.release();
        assert.equal(await client.customCommand(["EVAL", "return redis.call('GET', KEYS[1])", "1", key]), "w");
    });

    if (protocol === 3) // GLIDE itself subscribes in RESP3 only
    test("publish and subscribe", async () => {
        const channel = fresh("channel");
        const got = [];
        const subscriber = await connect({
            pubsubSubscriptions: {
                channelsAndPatterns: { [Exact]: new Set([channel]), [Pattern]: new Set([`${channel}*`]) },
                callback: (m) => got.push([m.channel, m.message]),
            },
        });
        await eventually("subscribed", async () => (await client.publish("one", channel)) === 2);
        await eventually("messages", async () => got.filter(([c, m]) => c === channel && m === "one").length >= 2);
        got.length = 0;
        assert.equal(await client.publish("two", `${channel}x`), 1);
        await eventually("message", async () => got.some(([c, m]) => c === `${channel}x` && m === "two"));
        assert.equal(await subscriber.set(channel, "while subscribed"), "OK");
    });

    test("blocking pops", async () => {
        const waiting = await connect();
        const list = fresh("list");
        const popped = waiting.blpop([list], 8);
        await eventually("blocked", async () => /blocked_clients:[1-9]/.test(await raw("INFO", "clients")));
        await client.rpush(list, ["pushed"]);
        assert.deepEqual(await popped, [list, "pushed"]);
        assert.equal(await waiting.blpop([list], 0.05), null);
        await client.rpush(list, ["a", "b"]);
        assert.equal(await waiting.blmove(list, `${list}2`, ListDirection.LEFT, ListDirection.RIGHT, 1), "a");
        assert.deepEqual(await client.lrange(`${list}2`, 0, -1), ["a"]);
        await client.zadd(`${list}z`, { m: 1 });
        assert.deepEqual(await waiting.bzpopmin([`${list}z`], 1), [`${list}z`, "m", 1]);
    });

    test("streams with a consumer group", async () => {
        const stream = fresh("stream");
        assert.equal(await client.xgroupCreate(stream, "g", "$", { mkStream: true }), "OK");
        const waiting = await connect();
        const read = waiting.xreadgroup("g", "alice", { [stream]: ">" }, { block: 8000 });
        const id = await client.xadd(stream, [["field", "value"]]);
        assert.match(id, /^\d+-\d+$/);
        const [{ key, value }] = await read;
        assert.equal(key, stream);
        assert.deepEqual({ ...value }, { [id]: [["field", "value"]] });
        assert.equal((await client.xpending(stream, "g"))[0], 1);
        assert.deepEqual({ ...(await client.xautoclaim(stream, "g", "bob", 0, "0"))[1] }, { [id]: [["field", "value"]] });
        assert.equal(await client.xack(stream, "g", [id]), 1);
        assert.equal(await waiting.xreadgroup("g", "bob", { [stream]: ">" }, { block: 20 }), null);
        assert.equal(await client.xlen(stream), 1);
    });

    test("several databases", async () => {
        const three = await connect({ databaseId: 3 });
        const key = fresh("db");
        await Promise.all([client.set(key, "zero"), three.set(key, "three")]);
        assert.equal(await client.get(key), "zero");
        assert.equal(await three.get(key), "three");
        await Promise.all([three.select(5), three.set(key, "five"), three.select(3)]);
        assert.equal(await three.get(key), "three");
        assert.equal(await three.move(key, 7), true);
        await three.select(7);
        assert.equal(await three.get(key), "three");
    });

    test("binary and large values", async () => {
        const key = Buffer.concat([Buffer.from(fresh("binary")), everyByte]);
        await client.set(key, everyByte);
        assert.deepEqual(await client.get(key, bytes), everyByte);
        await client.set(key, large);
        assert.ok((await client.get(key, bytes)).equals(large));
        assert.equal(await client.append(key, "end"), large.length + 3);
        const name = fresh("hash");
        await client.hset(name, [{ field: key, value: everyByte }]);
        assert.deepEqual(await client.hget(name, key, bytes), everyByte);
        await client.set(name, "");
        assert.equal(await client.get(name), "");
    });

    test("many clients at once get their own replies", async () => {
        const key = fresh("shared");
        const clients = await Promise.all(Array.from({ length: 10 }, () => connect()));
        const seen = await Promise.all(clients.map(async (c, n) => {
            const mine = [];
            for (let i = 0; i < 50; i++) {
                mine.push(await c.incr(key));
                await c.set(`${key}:${n}`, String(i));
                assert.equal(await c.get(`${key}:${n}`), String(i));
            }
            return mine;
        }));
        assert.equal(new Set(seen.flat()).size, 500);
        assert.equal(await client.get(key), "500");
    });

    test("a connection chooses its durability", { skip: bare }, async () => {
        const own = await connect();
        assert.equal(await own.customCommand(["CLIENT", "DURABILITY", otherMode(mode)]), "OK");
        const key = fresh("choice");
        assert.equal(await own.set(key, mode), "OK");
        assert.equal(await client.get(key), mode);
        assert.equal(await own.customCommand(["CLIENT", "DURABILITY", "DEFAULT"]), "OK");
        await assert.rejects(own.customCommand(["CLIENT", "DURABILITY", "MAYBE"]));
    });

    test("goes on after kill -9 of Valkey", { skip: bare }, async () => {
        const channel = fresh("channel");
        let messages = 0;
        if (protocol === 3)
            await connect({ pubsubSubscriptions: { channelsAndPatterns: { [Exact]: new Set([channel]) }, callback: () => messages++ } });
        await survivesKill(mode, {
            set: (k, v) => client.set(k, v),
            get: (k) => client.get(k),
            reopened: protocol === 3
                ? () => eventually("subscribed again", async () => (await client.publish("m", channel)) && messages > 0)
                : undefined,
        });
    });
}
