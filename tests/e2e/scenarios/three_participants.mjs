/** Three people in a call: each sees and hears exactly the other two, under the right user ids. */

import { chromium } from "../lib/browser.mjs";
import { framesRise, joinAs, perceivesExactly, PEOPLE } from "../lib/call.mjs";
import { room, step, story, until } from "../lib/story.mjs";

await story("three participants see and hear each other", async () => {
  const browser = await chromium();
  const id = room();
  const names = Object.keys(PEOPLE).slice(0, 3);
  const pages = {};
  for (const name of names) {
    pages[name] = await joinAs(browser, name, id);
  }
  for (const name of names) {
    await until(`${name}'s media to connect`, () => pages[name].evaluate(() => e2e.state.call.state === "connected"));
  }
  step("all connected");
  for (const name of names) {
    await perceivesExactly(pages[name], name, names.filter((other) => other !== name));
  }
  for (const name of names) {
    for (const other of names) if (other !== name) await framesRise(pages[name], name, other);
  }
  step("every picture goes on");

  await pages.alice.evaluate(() => e2e.state.call.chat("hello all"));
  await pages.alice.evaluate(() => e2e.state.call.sendData({ hand: "up" }, { to: "bob" }));
  for (const name of ["bob", "carol"]) {
    await until(`${name} to read the chat`, () =>
      pages[name].evaluate(() => e2e.state.chats.some(({ userId, text }) => userId === "alice" && text === "hello all")),
    );
  }
  await until("bob to get the data", () =>
    pages.bob.evaluate(() => e2e.state.datas.some(({ userId, value }) => userId === "alice" && value.hand === "up")),
  );
  const strayed = await pages.carol.evaluate(() => e2e.state.datas.length);
  if (strayed !== 0) throw new Error("carol got what was for bob alone");
});
