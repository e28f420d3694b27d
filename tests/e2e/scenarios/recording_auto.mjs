/** Where the operator wishes so, a call is recorded from when the first comes until the last leaves, and everybody is told. */

import { chromium } from "../lib/browser.mjs";
import { analyse, cameraOf, hostToken, publish, Recording, SYNC, voiceOf } from "../lib/recording.mjs";
import { room, step, story, until } from "../lib/story.mjs";

await story("a call is recorded by itself", async () => {
  const browser = await chromium();
  const id = room("auto");
  const host = await hostToken(id);
  const alice = await publish(browser, "alice", id);
  const recordingId = await until("alice to be told", () => alice.evaluate(() => e2e.state.call.recording?.recordingId));
  const recording = new Recording(id, host, recordingId);
  await recording.reaches(5);
  await alice.evaluate(() => e2e.state.call.leave());
  step("alice leaves");
  const files = await recording.download(await recording.completed());
  await analyse(files["recording.webm"], {
    avOffsetMs: SYNC.avOffsetMs,
    complete: true,
    tracks: [cameraOf("alice", { flashes: 3 }), voiceOf("alice", { beeps: 3 })],
  });
});
