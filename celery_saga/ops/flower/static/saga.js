// Refreshes a page while what it shows may change, and carries out the verbs.
(function () {
  "use strict";

  const REFRESH = 3000; // milliseconds

  function cookie(name) {
    const found = document.cookie.split("; ").find((each) => each.startsWith(name + "="));
    return found ? found.slice(name.length + 1) : "";
  }

  async function refresh(force) {
    const page = document.querySelector(".page-section[data-live]") || (force && document.querySelector(".page-section"));
    if (!page || (document.hidden && !force) || page.contains(document.activeElement) && document.activeElement.matches("input")) return;
    try {
      const answer = await fetch(location.href, { headers: { "X-Requested-With": "saga" }, credentials: "same-origin" });
      if (!answer.ok || answer.redirected) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(".page-section");
      if (!fresh) return;
      const said = page.querySelector("#saga-answer");
      if (said && fresh.querySelector("#saga-answer")) fresh.querySelector("#saga-answer").replaceWith(said);
      page.replaceWith(fresh);
    } catch (error) {
      // Flower cannot be reached now; the next turn tries again.
    }
  }

  function say(text, good) {
    const place = document.getElementById("saga-answer");
    place.className = "alert py-2 alert-" + (good ? "success" : "danger");
    place.textContent = text;
  }

  async function carryOut(button) {
    const fields = JSON.parse(button.dataset.known);
    if (button.dataset.asks) {
      const given = prompt(button.textContent.trim() + "\n" + button.dataset.asks, "");
      if (given === null) return;
      try {
        if (given.trim()) fields[button.dataset.field] = JSON.parse(given);
      } catch (error) {
        say("This is not JSON: " + given, false);
        return;
      }
    } else if (!confirm(button.textContent.trim() + ": " + button.title + "?")) {
      return;
    }
    button.disabled = true;
    const answer = await fetch(button.dataset.url, {
      method: "POST",
      credentials: "same-origin",
      headers: { "Content-Type": "application/json", "X-XSRFToken": cookie("_xsrf") },
      body: JSON.stringify(fields),
    });
    const text = await answer.text();
    say(answer.ok ? JSON.parse(text).message : text || `${answer.status} ${answer.statusText}`, answer.ok);
    button.disabled = false;
    await refresh(true);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-verb]");
    if (button) carryOut(button).catch((error) => say(String(error), false));
  });
  setInterval(refresh, REFRESH);
})();
