// Each library by way of TLS: a large value, a pipeline, a transaction, a message. Those that can, show a certificate (tls-auth-clients is
// optional here, as GLIDE has none to show); one of a stranger is refused.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { Batch, GlideClient, GlideClientConfiguration, Logger, ProtocolVersion } from "@valkey/valkey-glide";
import Redis from "ioredis";
import IoValkey from "iovalkey";
import { createClient } from "redis";
import { eventually, fresh, host, large } from "./common.mjs";

const port = Number(process.env.HOLDFAST_TLS_PORT);
const place = process.env.HOLDFAST_TLS_DIR;
const file = (name) => readFileSync(`${place}/${name}`);
const shown = (who) => ({ ca: file("ca.crt"), cert: file(`${who}.crt`), key: file(`${who}.key`) });
Logger.init("off");

function ofIoredis(Library) {
    return async (who) => {
        const open = [];
        const connect = () => {
            const c = new Library({ host, port, tls: shown(who), retryStrategy: () => null });
            c.on("error", () => {});
            open.push(c);
            return c;
        };
        const c = connect();
        return {
            set: (key, value) => c.set(key, value),
            get: (key) => c.getBuffer(key),
            pipeline: (key, n) => Promise.all(Array.from({ length: n }, () => c.incr(key))),
            transaction: async (key) => (await c.multi().incr(key).incr(key).exec()).map(([, v]) => v),
            subscribe: async (channel, told) => {
                const s = connect();
                s.on("message", (_, text) => told(text));
                await s.subscribe(channel);
            },
            publish: (channel, text) => c.publish(channel, text),
            close: () => open.forEach((o) => o.disconnect()),
        };
    };
}

async function ofNodeRedis(who) {
    const open = [];
    const connect = async () => {
        const c = createClient({ socket: { host, port, tls: true, ...shown(who), reconnectStrategy: false } });
        open.push(c);
        await new Promise((done, failed) => { // a connection that is refused after its handshake is an event, and leaves connect() pending
            c.on("error", failed);
            c.connect().then(done, failed);
        });
        return c;
    };
    const c = await connect();
    return {
        set: (key, value) => c.set(key, value),
        get: async (key) => Buffer.from(await c.get(key), "latin1"),
        pipeline: (key, n) => Promise.all(Array.from({ length: n }, () => c.incr(key))),
        transaction: (key) => c.multi().incr(key).incr(key).exec(),
        subscribe: async (channel, told) => (await connect()).subscribe(channel, told),
        publish: (channel, text) => c.publish(channel, text),
        close: () => open.forEach((o) => o.destroy()),
        ascii: true, // its replies are texts
    };
}

async function ofGlide() {
    const open = [];
    const { Exact } = GlideClientConfiguration.PubSubChannelModes;
    const connect = async (options = {}) => {
        const c = await GlideClient.createClient({
            addresses: [{ host: "localhost", port }], useTLS: true, protocol: ProtocolVersion.RESP3, requestTimeout: 10_000,
            advancedConfiguration: { connectionTimeout: 10_000, tlsAdvancedConfiguration: { rootCertificates: file("ca.crt") } }, ...options,
        });
        open.push(c);
        return c;
    };
    const c = await connect();
    return {
        set: (key, value) => c.set(key, value),
        get: async (key) => Buffer.from(await c.get(key), "latin1"),
        pipeline: (key, n) => c.exec(Array.from({ length: n }).reduce((batch) => batch.incr(key), new Batch(false)), true),
        transaction: (key) => c.exec(new Batch(true).incr(key).incr(key), true),
        subscribe: (channel, told) =>
            connect({ pubsubSubscriptions: { channelsAndPatterns: { [Exact]: new Set([channel]) }, callback: ({ message }) => told(message) } }),
        publish: (channel, text) => c.publish(text, channel),
        close: () => open.forEach((o) => o.close()),
        ascii: true,
    };
}

const libraries = { ioredis: ofIoredis(Redis), iovalkey: ofIoredis(IoValkey), "node-redis": ofNodeRedis, GLIDE: ofGlide };

for (const [name, connect] of Object.entries(libraries))
    describe(`${name} with TLS`, () => {
        test("everyday work", async () => {
            const client = await connect("client");
            try {
                const key = fresh("tls"), value = client.ascii ? Buffer.alloc(large.length, "0123456789") : large;
                assert.equal(await client.set(key, client.ascii ? value.toString() : value), "OK");
                assert.ok(value.equals(await client.get(key)));
                assert.deepEqual(await client.pipeline(`${key}:n`, 1000), Array.from({ length: 1000 }, (_, i) => i + 1));
                assert.deepEqual(await client.transaction(`${key}:n`), [1001, 1002]);
                const heard = [];
                await client.subscribe(key, (text) => heard.push(text));
                await eventually("the message", async () => {
                    await client.publish(key, "hello");
                    return heard.includes("hello");
                });
            } finally {
                client.close();
            }
        });
        if (name === "GLIDE")
            return; // it shows none
        test("a stranger's certificate", async () => {
            const alive = setInterval(() => {}, 1000);
            await assert.rejects(async () => {
                const client = await connect("stranger");
                try {
                    await client.get("x");
                } finally {
                    client.close();
                }
            });
            clearInterval(alive);
        });
    });
