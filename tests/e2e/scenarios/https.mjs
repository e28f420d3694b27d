/** A call over HTTPS and WSS, with the certificate of a test. */

import { chromium } from "../lib/browser.mjs";
import { joinAs, perceivesExactly } from "../lib/call.mjs";
import { assert, room, serverUrl, step, story } from "../lib/story.mjs";

await story("a call over HTTPS and WSS", async () => {
  assert(serverUrl.startsWith("https://"), `the server says https, got ${serverUrl}`);
  const browser = await chromium({ args: ["--ignore-certificate-errors"] });
  const id = room("tls");
  const alice = await joinAs(browser, "alice", id);
  const bob = await joinAs(browser, "bob", id);
  const secure = await alice.evaluate(() => globalThis.isSecureContext && location.protocol === "https:");
  assert(secure, "the page is a secure context");
  await perceivesExactly(alice, "alice", ["bob"]);
  await perceivesExactly(bob, "bob", ["alice"]);
  step("media flows");
});
