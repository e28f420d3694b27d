/** The built-in page as people use it: three tabs join, see each other by name, mute, chat, leave, and meet errors. */

import { mkdirSync } from "node:fs";
import { chromium, watch } from "../lib/browser.mjs";
import { assert, onFailure, room, serverUrl, step, story, until } from "../lib/story.mjs";

const SHOTS = process.env.SCREENSHOTS;
if (SHOTS) mkdirSync(SHOTS, { recursive: true });

async function shot(page, name) {
  if (SHOTS) await page.screenshot({ path: `${SHOTS}/${name}.png` });
}

async function open(browser, name, search) {
  const page = await browser.newPage();
  watch(page, name);
  await page.setViewportSize({ width: 1100, height: 680 });
  await page.goto(new URL(search, serverUrl).href);
  onFailure(`screen of ${name}`, async () => {
    const path = `/tmp/e2e-failed-${name}.png`;
    await page.screenshot({ path });
    const text = await page.evaluate(() => document.body.innerText);
    return `${path}\n${text}`;
  });
  return page;
}

/** Names of the tiles that show a picture that is not still. */
function picturesOf(page) {
  return page.evaluate(() =>
    [...document.querySelectorAll(".tile.has-video")]
      .filter((tile) => tile.querySelector("video").videoWidth > 0)
      .map((tile) => tile.querySelector(".name").textContent)
      .sort(),
  );
}

function tile(page, name) {
  return page.locator(".tile", { hasText: name });
}

await story("the built-in page", async () => {
  const browser = await chromium();
  const id = room("page");
  const people = ["Ada Lovelace", "Grace Hopper", "Katherine Johnson"];
  const tabs = {};

  for (const name of people) {
    const page = await open(browser, name, `?room=${id}`);
    tabs[name] = page;
    await page.getByLabel("Your name").fill(name);
    await until("the preview", () => page.evaluate(() => document.getElementById("preview-video").videoWidth > 0));
    const cameras = await page.locator("#cam-select option").count();
    assert(cameras > 0, "the camera selector lists a device");
    if (name === people[0]) await shot(page, "1-before-joining");
    await page.getByRole("button", { name: "Join", exact: true }).click();
    await page.locator("#call").waitFor({ state: "visible" });
    step(`${name} is in`);
  }

  for (const name of people) {
    const expected = people.map((other) => (other === name ? `${name} (you)` : other)).sort();
    await until(`${name} to see every picture`, async () => {
      const seen = await picturesOf(tabs[name]);
      return JSON.stringify(seen) === JSON.stringify(expected) ? true : { ok: false, seen };
    });
  }
  step("everybody sees everybody");
  await shot(tabs[people[0]], "2-in-the-call");

  const [ada, grace, katherine] = people.map((name) => tabs[name]);
  await ada.getByRole("button", { name: "Mute microphone" }).click();
  await until("Grace to see that Ada is muted", () => tile(grace, people[0]).evaluate((node) => node.classList.contains("mic-muted")));
  await ada.getByRole("button", { name: "Turn camera off" }).click();
  await until("Grace to see Ada's initials", () =>
    tile(grace, people[0]).evaluate(
      (node) => !node.classList.contains("has-video") && node.querySelector(".avatar").textContent === "AL",
    ),
  );
  await grace.getByRole("button", { name: "Chat", exact: true }).click();
  await grace.getByLabel("Message", { exact: true }).fill("Good morning");
  await grace.getByRole("button", { name: "Send" }).click();
  await until("Ada's unread mark", () => ada.locator("#chat-unread").isVisible());
  await ada.keyboard.press("c");
  await ada.getByText("Good morning").waitFor();
  step("mute, camera and chat work");
  await shot(grace, "3-muted-and-chat");
  await ada.getByRole("button", { name: "Turn camera on" }).click();
  await until("Ada's picture to come back", async () => (await picturesOf(grace)).includes(people[0]));

  // A shared screen is large by itself; somebody pinned goes before it; the browser's bar ends it.
  await grace.evaluate(() => {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: 1280, height: 720 });
    const context = canvas.getContext("2d");
    let count = 0;
    setInterval(() => {
      context.fillStyle = "#fff";
      context.fillRect(0, 0, 1280, 720);
      context.fillStyle = "#000";
      context.font = "60px sans-serif";
      context.fillText(`Slide ${(count += 1)}`, 100, 200);
    }, 100);
    globalThis.shared = canvas.captureStream(10);
    navigator.mediaDevices.getDisplayMedia = async () => globalThis.shared;
  });
  await grace.getByRole("button", { name: "Share screen" }).click();
  const large = () => ada.evaluate(() => document.querySelector(".tile.large .name")?.textContent ?? null);
  await until("the screen to be large", async () => (await large()) === `${people[1]}: screen`);
  await until("its picture", async () => (await picturesOf(ada)).includes(`${people[1]}: screen`));
  await shot(ada, "3-shared-screen");
  await tile(ada, people[2]).getByRole("button", { name: `Make ${people[2]} large` }).press("Enter");
  assert((await large()) === people[2], "the pinned tile is large");
  await tile(ada, people[2]).getByRole("button", { name: "small again" }).press("Enter");
  assert((await large()) === `${people[1]}: screen`, "the screen is large again");
  await grace.evaluate(() => shared.getVideoTracks()[0].dispatchEvent(new Event("ended")));
  await until("the grid to be back", async () => (await large()) === null);
  await grace.getByRole("button", { name: "Share screen" }).waitFor();
  step("a screen is shared, pinned over, and ended");

  await katherine.getByRole("button", { name: "Leave call" }).click();
  await katherine.locator("#prejoin").waitFor({ state: "visible" });
  await until("Katherine's tile to go", async () => (await tile(grace, people[2]).count()) === 0);
  await katherine.getByRole("button", { name: "Join", exact: true }).click();
  await until("Katherine to be back", async () => (await picturesOf(grace)).includes(people[2]));
  step("leave and join again work");

  await grace.setViewportSize({ width: 400, height: 760 });
  await grace.getByRole("button", { name: "Close chat" }).click();
  await shot(grace, "4-phone");

  const refused = await open(browser, "refused", `?room=${id}&token=not.a.token`);
  await refused.getByLabel("Your name").fill("Mallory");
  await refused.getByRole("button", { name: "Join", exact: true }).click();
  await refused.getByRole("alert").getByText("access token was refused").waitFor({ timeout: 10_000 });
  assert(!refused.url().includes("token"), "the token is not left in the address bar");
  await shot(refused, "5-refused");

  const offline = await open(browser, "offline", `?room=${id}`);
  await offline.route("**/dev/token", (route) => route.abort());
  await offline.getByLabel("Your name").fill("Nobody");
  await offline.getByRole("button", { name: "Join", exact: true }).click();
  await offline.getByRole("alert").getByText("cannot be reached").waitFor({ timeout: 10_000 });
  step("errors are in words");

  const noise = Object.values(tabs).flatMap((page) => page.e2eLines).filter((line) => /^(uncaught|error): .*(Security Policy|TypeError|ReferenceError)/.test(line));
  assert(noise.length === 0, `no script errors or policy violations: ${noise.join("; ")}`);
});
