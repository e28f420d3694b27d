/** Runs the script of `scenarios/simplest.html` in a page of the server's origin, whose policy forbids inline scripts. */

import { readFileSync } from "node:fs";
import { addHelpers, watch } from "./browser.mjs";
import { onFailure, serverUrl, step, token, until } from "./story.mjs";

const HTML = readFileSync(new URL("../scenarios/simplest.html", import.meta.url), "utf8");
const SCRIPT = HTML.slice(HTML.indexOf('<script type="module">') + '<script type="module">'.length, HTML.indexOf("</script>"));

export async function simplest(browser, { user, roomId, mode, colour }) {
  const page = await browser.newPage();
  watch(page, user);
  onFailure(`messages of ${user}`, () =>
    page.evaluate(() => JSON.stringify({ errors: client.errors, messages: client.messages }).slice(0, 6_000)),
  );
  const address = new URL("style.css", serverUrl);
  address.search = new URLSearchParams({ token: await token(user, roomId), room: roomId, user, mode, colour });
  await page.goto(address.href);
  await addHelpers(page);
  await page.evaluate(`(() => {${SCRIPT}})()`);
  await page.evaluate(() => client.start());
  await until(`${user} to have joined`, () => page.evaluate(() => client.messages.some(({ type }) => type === "joined")));
  step(`${user} joined`);
  return page;
}

/** Waits until one of the remote video tracks shows `colour` and goes on. */
export async function seesColour(page, who, colour) {
  const look = () =>
    page.evaluate(() =>
      client.remote
        .filter((track) => track.kind === "video")
        .map((track) => ({ ...e2e.lookAtTrack(track), muted: track.muted })),
    );
  await until(`${who} to see ${colour}`, async () => {
    const seen = await look();
    return seen.some((picture) => picture.ok && picture.colour === colour) ? true : { ok: false, seen };
  });
  const decoded = () =>
    page.evaluate(async () => {
      let frames = 0;
      for (const entry of (await client.pc.getStats()).values()) frames += entry.framesDecoded ?? 0;
      return frames;
    });
  const before = await decoded();
  await until(`${who}'s picture to go on`, async () => (await decoded()) >= before + 5);
  step(`${who} sees ${colour}`);
}

export function messages(page, type) {
  return page.evaluate((wanted) => client.messages.filter((message) => message.type === wanted), type);
}

export function errors(page) {
  return page.evaluate(() => client.errors);
}
