/** A TCP connection to the server that can be cut. */

import { connect, createServer } from "node:net";
import { once } from "node:events";
import { cleanup, serverUrl } from "./story.mjs";

export class Proxy {
  #sockets = new Set();
  #server;
  #isCut = false;

  static async start() {
    const proxy = new Proxy();
    const { hostname, port } = new URL(serverUrl);
    proxy.#server = createServer((client) => {
      if (proxy.#isCut) return client.destroy();
      const server = connect(Number(port), hostname);
      for (const [one, other] of [[client, server], [server, client]]) {
        proxy.#sockets.add(one);
        one.on("error", () => {});
        one.on("close", () => {
          proxy.#sockets.delete(one);
          other.destroy();
        });
        one.pipe(other);
      }
    });
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    cleanup(() => {
      proxy.cut();
      proxy.#server.close();
    });
    return proxy;
  }

  /** The same server, by way of this. */
  get url() {
    return `http://127.0.0.1:${this.#server.address().port}/`;
  }

  /** Ends every connection, and takes none until it is mended. */
  cut() {
    this.#isCut = true;
    for (const socket of this.#sockets) socket.destroy();
  }

  mend() {
    this.#isCut = false;
  }
}
