/** Where photos come from: the file chooser, the camera, drag and drop, the clipboard. */

/** @param {string} id @returns {any} */
const element = (id) => document.getElementById(id);

/** @param {(photo: File) => void} onPhoto @param {(model: File) => void} onModel */
export function listen(onPhoto, onModel) {
  const take = (/** @type {File | undefined} */ file) => {
    if (file) (file.name.endsWith(".argan") ? onModel : onPhoto)(file);
  };
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (
    document.querySelectorAll("[data-open]")
  ))
    button.addEventListener("click", () => element(`input-${button.dataset.open}`).click());
  for (const input of ["files", "camera", "model"].map((kind) => element(`input-${kind}`)))
    input.addEventListener("change", () => {
      take(input.files[0]);
      input.value = ""; // the same file may be chosen again
    });
  document.addEventListener("paste", (event) => take(event.clipboardData?.files[0]));

  const dropping = element("dropping");
  const hasFiles = (/** @type {DragEvent} */ event) =>
    Boolean(event.dataTransfer?.types.includes("Files"));
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    dropping.hidden = false;
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) dropping.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    dropping.hidden = true;
    take(event.dataTransfer?.files[0]);
  });
}
