/**
 * The server is killed while it records, and started again, as a service manager does: it repairs the recording by itself, of
 * which at most a second is lost. SERVER_PID is who is to be killed; whoever started it starts it again at the same address.
 */

import { chromium } from "../lib/browser.mjs";
import { allSeeEachOther, analyse, cameraOf, hostToken, publish, Recording, SYNC, voiceOf, wallOf } from "../lib/recording.mjs";
import { assert, assertEqual, room, serverUrl, step, story, until } from "../lib/story.mjs";

const LENGTH_S = 8;
const LOST_MAX_S = 1;

await story("a killed server repairs what it recorded", async () => {
  const browser = await chromium();
  const id = room("crash");
  const names = ["alice", "bob"];
  const pages = {};
  for (const name of names) pages[name] = await publish(browser, name, id);
  await allSeeEachOther(pages);
  const recording = await Recording.start(id, await hostToken(id));
  await recording.reaches(LENGTH_S);

  process.kill(Number(process.env.SERVER_PID), "SIGKILL");
  const killed = Date.now() / 1_000;
  for (const page of Object.values(pages)) await page.close();
  await until("the server to be back", async () => (await fetch(new URL("healthz", serverUrl))).ok, { timeout: 20_000 });
  step("the server is back");

  const entry = await recording.completed();
  assertEqual(entry.recovered, true, "it is told that it was repaired");
  const files = await recording.download(entry);
  const each = names.flatMap((name) => [
    cameraOf(name, { startS: [0, 2], flashes: LENGTH_S - 3, gapS: 0.5 }),
    voiceOf(name, { startS: [0, 2], beeps: LENGTH_S - 3, gapS: 0.1 }),
  ]);
  const whole = await analyse(files["recording.webm"], { ...SYNC, complete: true, tracks: each });
  for (const { participant, source, endS } of whole.tracks) {
    const lost = killed - wallOf(whole, endS, killed);
    step(`MEASURED ${Math.round(lost * 1_000)} ms of ${participant}'s ${source} are lost`);
    assert(lost <= LOST_MAX_S, `at most ${LOST_MAX_S} s of ${participant}'s ${source} is lost: ${lost} s`);
  }
  for (const name of names) {
    await analyse(files[`${name}-1.webm`], {
      complete: true,
      avOffsetMs: SYNC.avOffsetMs,
      tracks: [cameraOf(name, { flashes: LENGTH_S - 3 }), voiceOf(name, { beeps: LENGTH_S - 3 })],
    });
  }

  // What was repaired stays as it is, and the next recording is made as ever.
  const kept = await recording.status();
  assertEqual(kept.files.length, entry.files.length, "files of what was repaired");
});
