// node-redis ("redis" at npm), in RESP2 and RESP3.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { createClient, defineScript, RESP_TYPES, WatchError } from "redis";
import { bare, eventually, everyByte, fresh, host, large, modes, otherMode, port, raw, setMode, survivesKill } from "./common.mjs";

for (const mode of modes)
    for (const RESP of [2, 3])
        describe(`node-redis, ${mode}, RESP${RESP}`, () => suite(mode, RESP));

const appendTwice = defineScript({
    SCRIPT: "redis.call('APPEND', KEYS[1], ARGV[1]) return redis.call('APPEND', KEYS[1], ARGV[1]) -- node-redis",
    NUMBER_OF_KEYS: 1,
    parseCommand: (parser, key, value) => {
        parser.pushKey(key);
        parser.push(value);
    },
    transformReply: (reply) => reply,
});

function suite(mode, RESP) {
    const open = [];
    const connect = async (options = {}) => {
        const client = createClient({ socket: { host, port, reconnectStrategy: 50 }, RESP, scripts: { appendTwice }, ...options });
        client.on("error", () => {}); // a lost connection; the commands say what became of them
        await client.connect();
        open.push(client);
        return client;
    };
    let client, buffers;
    before(async () => {
        await setMode(mode);
        client = await connect();
        buffers = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
    });
    after(() => open.forEach((c) => c.isOpen && c.destroy()));

    test("connects", async () => {
        assert.equal(await client.ping(), "PONG");
        const hello = await client.hello(RESP);
        assert.equal(hello.proto, RESP);
        assert.match(await client.info("server"), /valkey_version:/);
        await client.clientSetName("suite");
        assert.equal(await client.clientGetName(), "suite");
    });

    test("SET, GET and their kin", async () => {
        const key = fresh("string");
        assert.equal(await client.set(key, "1"), "OK");
        assert.equal(await client.incrBy(key, 41), 42);
        assert.equal(await client.get(key), "42");
        assert.equal(await client.set(key, "x", { condition: "NX" }), null);
        assert.equal(await client.set(key, "y", { EX: 100, GET: true }), "42");
        const left = await client.pTTL(key);
        assert.ok(left > 90_000 && left <= 100_000, `PTTL ${left}`);
        assert.equal(await client.getDel(key), "y");
        assert.equal(await client.get(key), null);
        const hash = fresh("hash");
        assert.equal(await client.hSet(hash, { a: 1, b: 2 }), 2);
        assert.deepEqual({ ...(await client.hGetAll(hash)) }, { a: "1", b: "2" });
        const sorted = fresh("zset");
        await client.zAdd(sorted, [{ value: "b", score: 2.5 }, { value: "a", score: 1 }]);
        assert.deepEqual(await client.zRangeWithScores(sorted, 0, -1), [{ value: "a", score: 1 }, { value: "b", score: 2.5 }]);
        await client.sAdd(`${sorted}s`, ["x", "y"]);
        assert.deepEqual(new Set(await client.sMembers(`${sorted}s`)), new Set(["x", "y"]));
        await assert.rejects(client.incr(hash), /WRONGTYPE/);
    });

    test("pipeline: replies in order, errors in their places", async () => {
        const key = fresh("pipe");
        const replies = await Promise.allSettled(Array.from({ length: 300 }, (_, i) =>
            [client.set(`${key}:${i}`, String(i)), client.get(`${key}:${i}`), client.lPush(`${key}:${i}`, "wrong type")]).flat());
        for (let i = 0; i < 300; i++) {
            assert.equal(replies[3 * i].value, "OK");
            assert.equal(replies[3 * i + 1].value, String(i));
            assert.match(replies[3 * i + 2].reason.message, /WRONGTYPE/);
        }
        assert.deepEqual(await client.multi().set(key, "a").get(key).execAsPipeline(), ["OK", "a"]);
    });

    test("MULTI and WATCH", async () => {
        const key = fresh("multi");
        assert.deepEqual(await client.multi().set(key, "1").incr(key).get(key).exec(), ["OK", 2, "2"]);
        const own = await connect();
        await own.watch(key);
        await client.set(key, "other");
        await assert.rejects(own.multi().set(key, "lost").exec(), WatchError);
        assert.equal(await client.get(key), "other");
        await own.watch(key);
        assert.equal(await own.unwatch(), "OK");
        await own.watch(key);
        assert.deepEqual(await own.multi().set(key, "won").exec(), ["OK"]);
        assert.equal(await client.get(key), "won");
    });

    test("EVAL, EVALSHA and defined scripts", async () => {
        const key = fresh("script");
        const body = "redis.call('SET', KEYS[1], ARGV[1]); return {KEYS[1], ARGV[1], 7}";
        assert.deepEqual(await client.eval(body, { keys: [key], arguments: ["v"] }), [key, "v", 7]);
        await assert.rejects(client.evalSha("0".repeat(40), { keys: [key] }), /NOSCRIPT/);
        const sha = await client.scriptLoad("return redis.call('INCRBY', KEYS[1], ARGV[1])");
        assert.equal(await client.evalSha(sha, { keys: [fresh("script")], arguments: ["5"] }), 5);
        assert.equal(await client.appendTwice(key, "w"), 3);
        assert.equal(await client.get(key), "vww");
    });

    test("publish and subscribe", async () => {
        const subscriber = await connect();
        const channel = fresh("channel");
        const got = [];
        await subscriber.subscribe(channel, (message, from) => got.push([from, message]));
        await subscriber.pSubscribe(`${channel}*`, (message, from) => got.push([from, message]));
        await subscriber.sSubscribe(`${channel}s`, (message, from) => got.push([from, message]));
        assert.equal(await client.publish(channel, "one"), 2);
        assert.equal(await client.sPublish(`${channel}s`, "two"), 1);
        await eventually("messages", async () => got.length === 3);
        assert.deepEqual(got, [[channel, "one"], [channel, "one"], [`${channel}s`, "two"]]);
        if (RESP === 3)
            assert.equal(await subscriber.set(channel, "while subscribed"), "OK");
        await subscriber.unsubscribe(channel);
        await subscriber.pUnsubscribe();
        await subscriber.sUnsubscribe();
        // node-redis answers with a Buffer after RESP2 subscriptions
        assert.equal(String(await subscriber.set(channel, "a usual connection again")), "OK");
    });

    test("blocking pops", async () => {
        const waiting = await connect();
        const list = fresh("list");
        const popped = waiting.blPop(list, 20);
        await eventually("blocked", async () => /blocked_clients:[1-9]/.test(await raw("INFO", "clients")));
        await client.rPush(list, "pushed");
        assert.deepEqual({ ...(await popped) }, { key: list, element: "pushed" });
        assert.equal(await waiting.blPop(list, 0.05), null);
        await client.rPush(list, ["a", "b"]);
        assert.equal(await waiting.blMove(list, `${list}2`, "LEFT", "RIGHT", 1), "a");
        assert.deepEqual(await client.lRange(`${list}2`, 0, -1), ["a"]);
        await client.zAdd(`${list}z`, { value: "m", score: 1 });
        assert.deepEqual({ ...(await waiting.bzPopMin(`${list}z`, 1)) }, { key: `${list}z`, value: "m", score: 1 });
    });

    test("streams with a consumer group", async () => {
        const stream = fresh("stream");
        assert.equal(await client.xGroupCreate(stream, "g", "$", { MKSTREAM: true }), "OK");
        const waiting = await connect();
        // as a plain command: what node-redis makes of XREADGROUP in RESP3 is still called unstable
        const read = (who, block) => waiting.sendCommand(["XREADGROUP", "GROUP", "g", who, "BLOCK", block, "STREAMS", stream, ">"]);
        const pending = read("alice", "20000");
        const id = await client.xAdd(stream, "*", { field: "value" });
        assert.match(id, /^\d+-\d+$/);
        const entries = [[id, ["field", "value"]]];
        assert.deepEqual(await pending.then((r) => (RESP === 3 ? { ...r } : r)), RESP === 3 ? { [stream]: entries } : [[stream, entries]]);
        assert.equal((await client.xPending(stream, "g")).pending, 1);
        const claimed = await client.xAutoClaim(stream, "g", "bob", 0, "0");
        assert.deepEqual(claimed.messages.map((m) => [m.id, { ...m.message }]), [[id, { field: "value" }]]);
        assert.equal(await client.xAck(stream, "g", id), 1);
        assert.equal(await read("bob", "20"), null);
        assert.equal(await client.xLen(stream), 1);
    });

    test("several databases", async () => {
        const three = await connect({ database: 3 });
        const key = fresh("db");
        await Promise.all([client.set(key, "zero"), three.set(key, "three")]);
        assert.equal(await client.get(key), "zero");
        assert.equal(await three.get(key), "three");
        await Promise.all([three.select(5), three.set(key, "five"), three.select(3)]);
        assert.equal(await three.get(key), "three");
        assert.equal(await three.move(key, 7), 1);
        await three.select(7);
        assert.equal(await three.get(key), "three");
        assert.deepEqual(await three.multi().select(5).get(key).exec(), ["OK", "five"]);
    });

    test("binary and large values", async () => {
        const key = Buffer.concat([Buffer.from(fresh("binary")), everyByte]);
        await client.set(key, everyByte);
        assert.deepEqual(await buffers.get(key), everyByte);
        await client.set(key, large);
        assert.ok((await buffers.get(key)).equals(large));
        assert.equal(await client.append(key, "end"), large.length + 3);
        const name = fresh("hash");
        await client.hSet(name, key, everyByte);
        assert.deepEqual(await buffers.hGet(name, key), everyByte);
        await client.set(name, "");
        assert.equal(await client.get(name), "");
    });

    test("many clients at once get their own replies", async () => {
        const key = fresh("shared");
        const clients = await Promise.all(Array.from({ length: 20 }, () => connect()));
        const seen = await Promise.all(clients.map(async (c, n) => {
            const mine = [];
            for (let i = 0; i < 50; i++) {
                mine.push(await c.incr(key));
                await c.set(`${key}:${n}`, String(i));
                assert.equal(await c.get(`${key}:${n}`), String(i));
            }
            return mine;
        }));
        assert.equal(new Set(seen.flat()).size, 1000);
        assert.equal(await client.get(key), "1000");
    });

    test("a connection chooses its durability", { skip: bare }, async () => {
        const own = await connect();
        assert.equal(await own.sendCommand(["CLIENT", "DURABILITY", otherMode(mode)]), "OK");
        const key = fresh("choice");
        assert.equal(await own.set(key, mode), "OK");
        assert.equal(await client.get(key), mode);
        assert.equal(await own.sendCommand(["CLIENT", "DURABILITY", "DEFAULT"]), "OK");
        await assert.rejects(own.sendCommand(["CLIENT", "DURABILITY", "MAYBE"]));
    });

    test("goes on after kill -9 of Valkey", { skip: bare }, async () => {
        const subscriber = await connect();
        const channel = fresh("channel");
        let messages = 0;
        await subscriber.subscribe(channel, () => messages++);
        await survivesKill(mode, {
            set: (k, v) => client.set(k, v),
            get: (k) => client.get(k),
            reopened: () => eventually("subscribed again", async () => (await client.publish(channel, "m")) && messages > 0),
        });
    });
}
