"use strict";
// The videos of one scene side by side. Each figure brings its frames as one picture; all are drawn from one
// frame number, so they cannot drift apart.
(() => {
  const find = (id) => document.getElementById(id);
  const player = find("player"), play = find("play"), slider = find("frame"), number = find("number");
  const motion = find("motion"), scene = find("scene"), seed = find("seed");
  const motions = [...document.querySelectorAll("section.motion")];
  const ICONS = { play: "M5 3l12 7-12 7z", pause: "M5 3h4v14H5zM11 3h4v14h-4z" };
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let shown = [], frame = 0, playing = false, visible = true, last = 0;

  function fill(select, names) {
    const before = select.value;
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(before)) select.value = before;
    select.parentElement.hidden = names.length < 2;
  }

  // A canvas of the frame's own size takes the contact sheet's place.
  function prepare(figure) {
    const picture = figure.querySelector("img"), data = figure.dataset;
    const video = {
      figure, picture, columns: +data.columns, frames: +data.frames,
      width: +data.width, height: +data.height, canvas: document.createElement("canvas"), drawn: -1,
    };
    video.canvas.width = video.width;
    video.canvas.height = video.height;
    video.canvas.setAttribute("role", "img");
    video.canvas.setAttribute("aria-label", picture.alt);
    figure.classList.toggle("crisp", Math.max(video.width, video.height) <= 160);
    picture.hidden = true;
    picture.style.display = "none";
    picture.before(video.canvas);
    picture.decode().then(() => { video.ready = true; draw(video); }, () => {});
    return video;
  }

  const videos = new Map();
  function videoOf(figure) {
    if (!videos.has(figure)) videos.set(figure, prepare(figure));
    return videos.get(figure);
  }

  function draw(video) {
    const at = Math.min(frame, video.frames - 1);
    if (!video.ready || video.drawn === at) return;
    const x = (at % video.columns) * video.width, y = Math.floor(at / video.columns) * video.height;
    const paper = video.canvas.getContext("2d");
    paper.drawImage(video.picture, x, y, video.width, video.height, 0, 0, video.width, video.height);
    video.drawn = at;
  }

  // Small frames are enlarged by a whole number of the screen's pixels, or they look uneven.
  function fit() {
    for (const video of shown) {
      const room = video.figure.clientWidth, dots = devicePixelRatio || 1;
      const factor = (room * dots) / video.width;
      const width = video.figure.classList.contains("crisp") && factor >= 1
        ? (Math.floor(factor) * video.width) / dots : room;
      video.canvas.style.width = `${width}px`;
    }
  }

  function go(to) {
    frame = to;
    slider.value = to;
    number.value = `${to + 1} of ${+slider.max + 1}`;
    slider.setAttribute("aria-valuetext", `frame ${number.value}`);
    shown.forEach(draw);
  }

  function set(on) {
    playing = on;
    play.setAttribute("aria-label", on ? "Pause" : "Play");
    play.querySelector("path").setAttribute("d", on ? ICONS.pause : ICONS.play);
    if (on) requestAnimationFrame((now) => { last = now; requestAnimationFrame(tick); });
  }

  function tick(now) {
    if (!playing) return;
    const every = 1000 / player.dataset.fps;
    if (visible && now - last >= every) {
      last = now - ((now - last) % every);
      go((frame + 1) % (+slider.max + 1));
    }
    requestAnimationFrame(tick);
  }

  // Of the chosen motion, scene and seed; what has no seed (the truth) goes with each.
  function choose() {
    const chosen = motions.find((each) => each.dataset.motion === motion.value);
    const scenes = [...chosen.querySelectorAll("section.scene")];
    fill(scene, scenes.map((each) => each.dataset.scene));
    const current = scenes[scene.selectedIndex];
    const figures = [...current.querySelectorAll("figure")];
    const seeds = new Set(figures.map((each) => each.dataset.seed).filter((each) => each !== undefined));
    fill(seed, [...seeds].sort((a, b) => a - b));
    for (const each of motions) each.hidden = each !== chosen;
    for (const each of scenes) each.hidden = each !== current;
    for (const each of figures) each.hidden = "seed" in each.dataset && each.dataset.seed !== seed.value;
    shown = figures.filter((each) => !each.hidden).map(videoOf);
    slider.max = Math.max(...shown.map((video) => video.frames)) - 1;
    fit();
    go(Math.min(frame, +slider.max));
  }

  document.documentElement.classList.add("js");
  player.hidden = false;
  fill(motion, motions.map((each) => each.dataset.motion));
  for (const select of [motion, scene, seed]) select.addEventListener("change", choose);
  slider.addEventListener("input", () => { set(false); go(+slider.value); });
  play.addEventListener("click", () => set(!playing));
  still.addEventListener("change", () => { if (still.matches) set(false); });
  addEventListener("resize", fit);
  new IntersectionObserver((seen) => { visible = seen[0].isIntersecting; }).observe(find("videos"));
  choose();
  set(!still.matches);
})();
