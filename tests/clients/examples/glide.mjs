// Durable writes with Valkey GLIDE: every write once, whatever fails.
//
//     node glide.mjs NAME COUNT PORT [PORT ...]      node tests/clients/examples/glide.mjs orders 100 6379 6380 6381
//
// Adds 1 to the counter NAME:total COUNT times, each time with a request id, and writes NAME:profile. Run again with the same NAME it
// changes nothing: the ids are known. The last line says what it met.
//
//     what was heard                                what it means                   what is done
//     CLUSTERDOWN, LOADING, TRYAGAIN, ...           refused: it has no effect       wait, then ask again
//     no connection could be made                   it was not sent                 the next node, then ask again
//     UNCERTAIN, a broken connection, no answer     it may have been applied,       ask again only what may be done twice
//                                                   or may still be
import { setTimeout as sleep } from "node:timers/promises";
import { GlideClient, Logger } from "@valkey/valkey-glide";

const BACKOFF_MS = 10;
const BACKOFF_MAX_MS = 1000;
const ANSWER_MS = 5000; // without an answer for so long: as if the connection had broken
const GIVE_UP_MS = 60_000;
const REFUSED = new Set(["ClusterDown", "BusyLoadingError", "TryAgain", "UNBLOCKED", "ReadOnly"]); // as GLIDE spells them

Logger.init("off"); // else it writes a line for each error reply

// The id and the effect are in one script, so both are done or neither is. An id is kept for longer than anybody may ask again.
const ADD_ONCE = `
if redis.call('SET', KEYS[2], 1, 'NX', 'EX', 86400) then
    return redis.call('INCRBY', KEYS[1], ARGV[1])
end
return tonumber(redis.call('GET', KEYS[1]))`;

class Refused extends Error {} // it has no effect
class Uncertain extends Error {} // nobody knows whether it was done, or will be

// One connection at a time, to any of the nodes.
class Holdfast {
    met = { refused: 0, uncertain: 0 };
    #ports;
    #at = 0;
    #client;

    constructor(ports) {
        this.#ports = ports;
    }

    /** Done at most once: asks again only when it is sure that nothing was done. Throws Uncertain otherwise. */
    once(...command) {
        return this.#ask(command, false);
    }

    /** For what may be done twice: a read, SET of a whole value, SADD, a script that knows its request's id. */
    repeat(...command) {
        return this.#ask(command, true);
    }

    async #ask(command, repeat) {
        const end = Date.now() + GIVE_UP_MS;
        for (let attempt = 0; ; attempt = Math.min(attempt + 1, 20)) {
            try {
                return await this.#try(command);
            } catch (error) {
                const uncertain = error instanceof Uncertain;
                if ((!uncertain && !(error instanceof Refused)) || (uncertain && !repeat) || Date.now() > end)
                    throw error;
                this.met[uncertain ? "uncertain" : "refused"]++;
            }
            await sleep(Math.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** attempt)); // exponential, with full jitter
        }
    }

    async #try(command) {
        try {
            await this.#connect();
        } catch (error) {
            this.#nextNode();
            throw new Refused(`not sent: ${error.message}`);
        }
        try {
            return await this.#client.customCommand(command.map(String));
        } catch (error) {
            // "UNCERTAIN: ...", or "An error was signalled by the server: - ClusterDown: ..."
            const code = error.message.replace("An error was signalled by the server: - ", "").split(":", 1)[0];
            const lost = error.constructor.name !== "RequestError"; // ConnectionError, TimeoutError, ClosingError
            if (!lost && code !== "UNCERTAIN" && !REFUSED.has(code))
                throw error; // the caller's: WRONGTYPE ...
            if (lost || code !== "UNCERTAIN")
                this.#nextNode();
            throw !lost && REFUSED.has(code) ? new Refused(error.message) : new Uncertain(error.message);
        }
    }

    async #connect() {
        this.#client ??= await GlideClient.createClient({
            addresses: [{ host: "127.0.0.1", port: this.#ports[this.#at] }], requestTimeout: ANSWER_MS,
            // With no retry at all its core spins when a connection is lost.
            connectionBackoff: { numberOfRetries: 2, factor: 10, exponentBase: 2 }, advancedConfiguration: { connectionTimeout: 1000 },
        });
    }

    #nextNode() {
        this.close();
        this.#at = (this.#at + 1) % this.#ports.length;
    }

    close() {
        this.#client?.close();
        this.#client = undefined;
    }
}

const [name, count, ...ports] = process.argv.slice(2);
const holdfast = new Holdfast(ports.map(Number));

await holdfast.repeat("SET", `${name}:profile`, JSON.stringify({ name, requests: Number(count) }));
for (let n = 0; n < Number(count); n++)
    await holdfast.repeat("EVAL", ADD_ONCE, 2, `${name}:total`, `${name}:request:${n}`, 1);

// Without an id: only the caller can decide. That it is there is proof; that it is not there is none: it may still come.
try {
    await holdfast.once("RPUSH", `${name}:log`, "finished");
} catch (error) {
    if (!(error instanceof Uncertain))
        throw error;
    console.log("in doubt, and there:", await holdfast.repeat("LRANGE", `${name}:log`, 0, -1));
}

console.log(JSON.stringify({ total: Number(await holdfast.repeat("GET", `${name}:total`)), ...holdfast.met }));
holdfast.close();
