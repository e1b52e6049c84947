// The ways in which a picture comes: a file that is chosen, dropped or pasted, or a photograph.

import {byId} from "./dom.js";

// Call receive(file) for each picture that comes; reject(message) where something else does.
export function listenForPictures(receive, reject) {
  const choose = (input) => {
    input.value = "";  // so that the same file can be chosen again
    input.click();
  };
  for (const id of ["file", "capture"]) {
    byId(id).addEventListener("change", (event) => event.target.files[0] && receive(event.target.files[0]));
  }
  byId("choose").addEventListener("click", () => choose(byId("file")));
  byId("photograph").addEventListener("click", () => {
    // Browsers give the camera only to pages on this machine or behind TLS; phones have the input's own camera.
    if (navigator.mediaDevices?.getUserMedia) openCamera(receive, reject);
    else choose(byId("capture"));
  });
  listenForDrops(receive, reject);
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData.files[0];
    if (file) receive(file);
    else if (!(event.target instanceof HTMLInputElement)) reject("the clipboard must hold a picture; it holds none");
  });
}

function listenForDrops(receive, reject) {
  const section = byId("send-section");
  const mark = (isOver) => section.classList.toggle("over", isOver);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget === null && mark(false));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    const file = event.dataTransfer.files[0];
    if (file) receive(file);
    else reject("what is dropped must be a picture file; it is none: save the picture first");
  });
}

async function openCamera(receive, reject) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}});
  } catch (error) {
    reject(`the camera cannot be used (${error.message}): choose a file instead`);
    return;
  }
  const dialog = byId("camera"), video = byId("video"), shutter = byId("shutter");
  shutter.disabled = true;
  video.addEventListener("loadeddata", () => shutter.disabled = false, {once: true});
  video.srcObject = stream;
  const stop = () => stream.getTracks().forEach((track) => track.stop());
  dialog.addEventListener("close", stop, {once: true});
  byId("camera-close").onclick = () => dialog.close();
  shutter.onclick = () => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => {
      dialog.close();
      if (blob) receive(new File([blob], "photograph.jpg"));
      else reject("the camera has no picture yet: try again");
    }, "image/jpeg", 0.95);
  };
  dialog.showModal();
}
