/** Firefox and Chromium call each other: pictures both ways by pixels, sound at least by packets. */

import { blankPage, chromium, firefox } from "../lib/browser.mjs";
import { counters, framesRise, join, joinAs, perceivesExactly } from "../lib/call.mjs";
import { room, step, story, until } from "../lib/story.mjs";

await story("Firefox and Chromium", async () => {
  const [chrome, fox] = await Promise.all([chromium(), firefox()]);
  const id = room("firefox");
  const alice = await joinAs(chrome, "alice", id);
  const bob = await blankPage(fox, "bob");
  await join(bob, "bob", id);
  await perceivesExactly(alice, "alice", ["bob"], { tones: false });
  await perceivesExactly(bob, "bob", ["alice"], { tones: false });
  await framesRise(alice, "alice", "bob");
  await framesRise(bob, "bob", "alice");
  for (const [page, who, other] of [[alice, "alice", "bob"], [bob, "bob", "alice"]]) {
    const before = await counters(page, other);
    const after = await until(`sound of ${other} at ${who}`, async () => {
      const now = await counters(page, other);
      return now.audioPackets >= before.audioPackets + 25 ? now : { ok: false, before, now };
    });
    step(`${who} gets ${after.audioPackets} audio packets of ${other}, energy ${after.energy.toFixed(3)}`);
  }
});
