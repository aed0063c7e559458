// What the suites share: where the server is, its mode, faults, waiting. run.py sets the environment.
//
// HOLDFAST_PORT             where clients connect to
// HOLDFAST_VALKEY_PIDFILE   the pid of the Valkey behind it; empty when a bare Valkey is tried, which has no modes and is not killed
// HOLDFAST_GROUP            for the failovers: the file that tells of the three nodes
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import net from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

export { sleep };
export const host = "127.0.0.1";
export const port = Number(process.env.HOLDFAST_PORT);
const pidfile = process.env.HOLDFAST_VALKEY_PIDFILE ?? "";
export const bare = pidfile === "";
export const modes = bare ? ["async"] : ["sync", "async"];

assert.ok(port > 0, "HOLDFAST_PORT is not set: start the suites with run.py");

const run = randomBytes(4).toString("hex");
let names = 0;
/** A name that no other test uses: tests share one server and delete nothing. */
export const fresh = (what) => `${what}:${run}:${++names}`;

export const everyByte = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
export const large = Buffer.alloc(4 * 1024 * 1024, everyByte);

/** One command on a connection of its own, past every client library. Resolves with the raw reply: a line, or the text of a bulk string. */
export function raw(...args) {
    const parts = args.map((a) => `$${Buffer.byteLength(a)}\r\n${a}\r\n`);
    return new Promise((resolve, reject) => {
        let text = "";
        const socket = net.connect(port, host, () => socket.write(`*${args.length}\r\n${parts.join("")}`));
        socket.setEncoding("latin1");
        socket.on("data", (chunk) => {
            text += chunk;
            const [, length, body] = /^\$(\d+)\r\n([^]*)$/.exec(text) ?? [];
            if (length ? body.length < Number(length) + 2 : !text.endsWith("\r\n"))
                return;
            socket.destroy();
            resolve(length ? body.slice(0, -2) : text);
        });
        socket.on("error", reject);
        socket.on("close", () => reject(new Error("closed without a reply")));
    });
}

export async function setMode(mode) {
    if (!bare)
        assert.equal(await raw("CONFIG", "SET", "durability", mode), "+OK\r\n");
}

/** The other mode, for connections that choose for themselves. */
export const otherMode = (mode) => (mode === "sync" ? "async" : "sync");

/** Repeats until check() neither throws nor answers false. An attempt that hangs counts as failed. */
export async function eventually(what, check, seconds = 30) {
    const end = Date.now() + seconds * 1000;
    let last;
    while (Date.now() < end) {
        try {
            const late = sleep(5000, null, { ref: false }).then(() => Promise.reject(new Error("no answer in 5 s")));
            if ((await Promise.race([check(), late])) !== false)
                return;
        } catch (error) {
            last = error;
        }
        await sleep(20);
    }
    throw new Error(`${what}: not within ${seconds} s`, { cause: last });
}

export async function allDurable() {
    await eventually("everything durable", async () => /holdfast_lag_ms:0\r/.test(await raw("INFO", "durability")));
}

export function killValkey() {
    process.kill(Number(readFileSync(pidfile, "ascii")), "SIGKILL");
}

/** kill -9 of Valkey under load. `set` and `get` are the client's own: what was acknowledged must be there afterwards. An error that is
 * thrown while Valkey is away is fine, silence and a wrong value are not. */
export async function survivesKill(mode, { set, get, reopened }) {
    const key = fresh("kill");
    const acknowledged = [];
    let stop = false;
    const writer = (async () => {
        for (let i = 0; !stop; i++) {
            try {
                await set(`${key}:${i}`, `v${i}`);
                acknowledged.push(i);
            } catch {
                await sleep(10);
            }
        }
    })();
    await eventually("first writes", async () => acknowledged.length >= 50);
    if (mode === "async") { // what is behind may be lost, so only what is known to be durable is looked for
        stop = true;
        await writer;
        await allDurable();
    }
    killValkey();
    const before = acknowledged.length;
    if (mode === "async")
        await eventually("a write after the kill", async () => (await set(key, "after")) !== undefined);
    else
        await eventually("a write after the kill", async () => acknowledged.length > before + 20);
    stop = true;
    await writer;
    for (const i of acknowledged)
        assert.equal(await get(`${key}:${i}`), `v${i}`, `write ${i} of ${acknowledged.length} was acknowledged`);
    await reopened?.();
}
