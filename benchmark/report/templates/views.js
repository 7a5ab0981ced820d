// Views: a link at the top shows one and hides the others.  Without this script the page shows all, one after another.
"use strict";
{
  const views = [...document.querySelectorAll("section.view")];
  const links = [...document.querySelectorAll("nav.views a")];

  // Shows the view that holds the target of the address, and opens the folded parts around the target.
  const follow = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const view = target?.closest("section.view") ?? (target?.id === "main" ? null : views[0]);
    if (!view) return;
    for (const one of views) one.classList.toggle("current", one === view);
    for (const link of links) {
      if (link.hash === `#${view.id}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    for (let part = target; part; part = part.parentElement) if (part.matches("details")) part.open = true;
    if (target && target !== view) target.scrollIntoView();
    else window.scrollTo(0, 0);
  };
  window.addEventListener("hashchange", follow);
  follow();

  // Arrow keys move between the links, as in a list of tabs; Enter follows the link that has the focus.
  document.querySelector("nav.views").addEventListener("keydown", (event) => {
    const at = links.indexOf(document.activeElement);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: links.length - 1 }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    const link = links[(next + links.length) % links.length];
    // Not by setting location.hash, with which the link would lose the focus.
    history.pushState(null, "", link.hash);
    follow();
    link.focus();
  });
}
