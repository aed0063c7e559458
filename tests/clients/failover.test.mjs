// A group of three nodes loses its leader, machine and all: each library goes on, by a node that is left and by the lost one when it is back.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, describe, test } from "node:test";
import { Batch, GlideClient, Logger, ProtocolVersion } from "@valkey/valkey-glide";
import Ioredis from "ioredis";
import Iovalkey from "iovalkey";
import { createClient } from "redis";
import { eventually, fresh, host, sleep } from "./common.mjs";

Logger.init("off"); // else it writes a line for each error reply

const members = () => JSON.parse(readFileSync(process.env.HOLDFAST_GROUP, "utf8")).members;
const status = async (member) => (await fetch(`http://${host}:${member.admin}/status`, { signal: AbortSignal.timeout(2000) })).json();

async function findLeader() {
    let leader;
    await eventually("all are there, one leads", async () => {
        leader = undefined;
        for (const member of members()) {
            const { role, ready } = await status(member);
            if (!ready)
                return false;
            if (role === "leader")
                leader = member;
        }
        return leader !== undefined;
    }, 60);
    return leader;
}

function killZone(member) {
    for (const pid of member.pids)
        process.kill(pid, "SIGKILL");
}

// What each library is asked for, in its own words.
const kinOfIoredis = (Redis) => async (port) => {
    const c = new Redis({ host, port, retryStrategy: () => 50, maxRetriesPerRequest: null });
    c.on("error", () => {}); // a lost connection; the commands say what became of them
    return {
        set: (k, v) => c.set(k, v),
        both: async (k, v) => (await c.multi().set(k, v).set(`${k}:2`, v).exec()).forEach(([error]) => { if (error) throw error; }),
        get: (k) => c.get(k),
        push: (k, v) => c.rpush(k, v),
        pop: async (k) => (await c.blpop(k, 20))?.[1],
        publish: (channel, m) => c.publish(channel, m),
        subscribe: async (channel, got) => {
            c.on("message", (_, m) => got(m));
            await c.subscribe(channel);
        },
        close: () => c.disconnect(),
    };
};

const nodeRedis = (RESP) => async (port) => {
    const c = createClient({ socket: { host, port, reconnectStrategy: 50 }, RESP });
    c.on("error", () => {});
    await c.connect();
    return {
        set: (k, v) => c.set(k, v),
        both: (k, v) => c.multi().set(k, v).set(`${k}:2`, v).exec(),
        get: (k) => c.get(k),
        push: (k, v) => c.rPush(k, v),
        pop: async (k) => (await c.blPop(k, 20))?.element,
        publish: (channel, m) => c.publish(channel, m),
        subscribe: (channel, got) => c.subscribe(channel, got),
        close: () => c.isOpen && c.destroy(),
    };
};

const glide = (protocol) => async (port) => {
    const create = (more) => GlideClient.createClient({ addresses: [{ host, port }], protocol, requestTimeout: 30_000,
        connectionBackoff: { numberOfRetries: 5, factor: 10, exponentBase: 2 }, ...more });
    const c = await create({});
    const all = [c];
    return {
        set: (k, v) => c.set(k, v),
        both: (k, v) => c.exec(new Batch(true).set(k, v).set(`${k}:2`, v), true),
        get: (k) => c.get(k),
        push: (k, v) => c.rpush(k, [v]),
        pop: async (k) => (await c.blpop([k], 20))?.[1],
        publish: (channel, m) => c.publish(m, channel),
        subscribe: async (channel, got) => all.push(await create({ pubsubSubscriptions: {
            channelsAndPatterns: { 0: new Set([channel]) }, callback: (m) => got(m.message) } })),
        close: () => all.forEach((each) => each.close()),
    };
};

const libraries = { ioredis: kinOfIoredis(Ioredis), iovalkey: kinOfIoredis(Iovalkey), "node-redis, RESP2": nodeRedis(2), "node-redis, RESP3": nodeRedis(3),
    "GLIDE, RESP2": glide(ProtocolVersion.RESP2), "GLIDE, RESP3": glide(ProtocolVersion.RESP3) };

/** Writes one key after the other, and remembers what was acknowledged. */
function writer(client, key) {
    const state = { acknowledged: [], errors: {}, stop: false };
    state.done = (async () => {
        for (let i = 0; !state.stop; i++) {
            try {
                await (i % 3 ? client.set(`${key}:${i}`, `v${i}`) : client.both(`${key}:${i}`, `v${i}`));
                state.acknowledged.push(i);
            } catch (error) {
                const code = String(error.message).split(" ")[0];
                state.errors[code] = (state.errors[code] ?? 0) + 1;
                await sleep(10);
            }
        }
    })();
    return state;
}

for (const [name, connect] of Object.entries(libraries))
    describe(`${name}, a failover`, () => {
        const open = [];
        after(() => open.forEach((c) => c.close()));
        const opened = async (port) => {
            const c = await connect(port);
            open.push(c);
            return c;
        };

        test("reconnects, and nothing acknowledged is lost", async () => {
            const leader = await findLeader();
            const follower = members().find((m) => m.name !== leader.name);
            const [through, own, waiting, ears] = [await opened(follower.port), await opened(leader.port), await opened(follower.port),
                await opened(follower.port)];
            const key = fresh("failover"), heard = [];
            const hears = !/GLIDE, RESP2/.test(name); // it has no pub/sub then
            if (hears)
                await ears.subscribe(`${key}:channel`, (m) => heard.push(m));
            const popped = waiting.pop(`${key}:list`).catch((error) => error);
            const writers = { through: writer(through, `${key}:through`), own: writer(own, `${key}:own`) };
            for (const w of Object.values(writers))
                await eventually("first writes", () => w.acknowledged.length >= 30);
            killZone(leader);
            const before = writers.through.acknowledged.length;
            await eventually("writes by a node that is left", () => writers.through.acknowledged.length >= before + 50, 40);
            const then = writers.own.acknowledged.length;
            await eventually("writes by the one that is back", () => writers.own.acknowledged.length >= then + 30, 60);
            for (const [where, w] of Object.entries(writers)) {
                w.stop = true;
                await w.done;
                for (const i of w.acknowledged) {
                    assert.equal(await through.get(`${key}:${where}:${i}`), `v${i}`, `write ${i} was acknowledged`);
                    if (i % 3 === 0)
                        assert.equal(await through.get(`${key}:${where}:${i}:2`), `v${i}`, `the other half of ${i}`);
                }
            }
            if (hears)
                await eventually("subscribed again", async () => {
                    await through.publish(`${key}:channel`, "m");
                    return heard.length > 0;
                });
            await eventually("pushed", async () => (await through.push(`${key}:list`, "x")) > 0);
            let got = await popped; // its outcome may be unknown, or it was asked again by the library
            if (got instanceof Error)
                got = await waiting.pop(`${key}:list`);
            assert.equal(got, "x");
            console.log(name, JSON.stringify(Object.fromEntries(Object.entries(writers).map(([w, s]) => [w, { ok: s.acknowledged.length, ...s.errors }]))));
        });
    });
