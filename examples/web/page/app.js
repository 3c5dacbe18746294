/** The page: what is set, what is shown, what is asked of the engine. */

import { Engine } from "./engine.js";
import { listen } from "./sources.js";
import { View } from "./view.js";

const STOPS = [
  22, 20, 18, 16, 14, 13, 11, 10, 9, 8, 7.1, 6.3, 5.6, 5, 4.5, 4, 3.5, 3.2, 2.8, 2.5, 2.2, 2, 1.8,
  1.6, 1.4, 1.2, 1.1, 1, 0.9, 0.8, 0.7,
]; // thirds of a stop
const REST_MS = 200; // after the last change, the preview is made with more care
const ENDINGS = { jpeg: "_bokeh.jpg", png: "_bokeh.png", depth: "_depth.png" };

/** @param {string} id @returns {any} */
const element = (id) => document.getElementById(id);

const engine = new Engine();
const view = new View(() => change());
/** @type {File | null} the open one */
let photo = null;
let saving = false;
let resting = 0;
let changes = 0;

// ---- what people are told

/** @param {string} message */
function say(message) {
  element("status").textContent = message;
}

/** @param {unknown} error */
function complain(error) {
  element("alert").firstElementChild.textContent =
    error instanceof Error ? error.message : String(error);
  element("alert").hidden = false;
}

/** @param {number | null} share null: nothing is under way */
function progress(share) {
  element("progress").hidden = share === null;
  element("progress").value = share ?? 0;
}

// ---- what is set

const look = () => ({
  point: view.point,
  fNumber: STOPS[element("aperture").value],
  blades: Number(
    /** @type {HTMLInputElement} */ (document.querySelector("[name=blades]:checked")).value,
  ),
  highlights: element("highlights").value / 100,
});

function describe() {
  const { point, fNumber, highlights } = look();
  const percent = (/** @type {number} */ share) => `${Math.round(100 * share)} %`;
  element("aperture-value").textContent = `f/${fNumber}`;
  element("aperture").setAttribute("aria-valuetext", `f/${fNumber}`);
  element("highlights-value").textContent = percent(highlights);
  element("highlights").setAttribute("aria-valuetext", percent(highlights));
  element("focus-value").textContent = point ? "Chosen" : "Automatic";
  element("auto").hidden = !point;
  if (point) say(`Focus ${percent(point.x)} from the left, ${percent(point.y)} from the top`);
}

/** Something was set: a quick preview now, a careful one when nothing changes for a while. */
async function change() {
  describe();
  if (!photo) return;
  clearTimeout(resting);
  const mine = ++changes;
  await develop("preview");
  if (mine === changes) resting = setTimeout(() => develop("final"), REST_MS);
}

/** @param {"preview" | "final"} quality */
async function develop(quality) {
  try {
    const made = await engine.ask("look", { look: look(), quality });
    if (!made) return;
    view.develop(made.after);
    element("photo").dataset.quality = quality; // final: this is what a save gives, smaller
  } catch (error) {
    complain(error);
  }
}

// ---- what is done

/** @param {File} file */
async function open(file) {
  element("alert").hidden = true;
  say("Opening the photo");
  document.body.setAttribute("aria-busy", "true");
  progress(0);
  try {
    await ready;
    const opened = await engine.ask("open", { file }, progress);
    if (!opened) return;
    photo = file;
    element("welcome").hidden = true;
    element("studio").hidden = false;
    element("open-again").hidden = false;
    view.open(opened);
    say(`Photo of ${opened.width} by ${opened.height} pixels opened`);
    element("photo").focus({ preventScroll: true });
    change();
  } catch (error) {
    complain(error);
  } finally {
    progress(null);
    document.body.removeAttribute("aria-busy");
  }
}

/** @param {File} [file] null: the page's own */
async function useModel(file) {
  element("alert").hidden = true;
  try {
    const model = await engine.ask("model", { file });
    element("model-name").textContent =
      `Model: ${model.name}${model.provider === "webgpu" ? " (GPU)" : ""}`;
    element("aperture").max = STOPS.length - 1;
    element("aperture").value = nearestStop(model.fNumber);
    describe();
    if (photo) await open(photo);
  } catch (error) {
    complain(error);
  }
}

/** @param {number} fNumber */
const nearestStop = (fNumber) =>
  STOPS.reduce(
    (best, stop, i) =>
      Math.abs(Math.log(stop / fNumber)) < Math.abs(Math.log(STOPS[best] / fNumber)) ? i : best,
    0,
  );

async function save() {
  if (saving) return engine.cancel();
  const format = /** @type {keyof typeof ENDINGS} */ (element("format").value);
  saving = true;
  element("save").textContent = "Cancel";
  say("Saving");
  progress(0);
  try {
    const file = await engine.ask(
      "save",
      { look: look(), format, exif: element("exif").checked },
      progress,
    );
    if (!file) return say("Not saved");
    download(file, (photo?.name ?? "photo").replace(/\.[^.]*$/, "") + ENDINGS[format]);
    say("Saved");
  } catch (error) {
    complain(error);
  } finally {
    saving = false;
    element("save").textContent = "Save";
    progress(null);
  }
}

/** @param {Blob} file @param {string} name */
function download(file, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function openExample() {
  const response = await fetch("example.jpg");
  await open(new File([await response.blob()], "dahlia.jpg", { type: "image/jpeg" }));
}

// ---- start

for (const id of ["aperture", "highlights"]) element(id).addEventListener("input", change);
for (const radio of document.querySelectorAll("[name=blades]"))
  radio.addEventListener("change", change);
for (const radio of /** @type {NodeListOf<HTMLInputElement>} */ (
  document.querySelectorAll("[name=view]")
))
  radio.addEventListener("change", () => (view.view = radio.value));
element("auto").addEventListener("click", () => {
  view.point = null;
  change();
  element("photo").focus({ preventScroll: true });
});
element("format").addEventListener(
  "change",
  () => (element("exif-label").hidden = element("format").value !== "jpeg"),
);
element("save").addEventListener("click", save);
element("example").addEventListener("click", () => openExample().catch(complain));
element("alert").lastElementChild.addEventListener("click", () => (element("alert").hidden = true));
document.querySelector("form")?.addEventListener("submit", (event) => event.preventDefault());
listen(open, useModel);
const ready = useModel();
// Without it the page works online alone.
if ("serviceWorker" in navigator) navigator.serviceWorker.register("sw.js").catch(() => {});
