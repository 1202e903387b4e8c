// Says that calls have arrived which the list's filter shows. The list itself
// stays as it is until the reader asks for them.
export function follow(bar) {
  const after = bar.dataset.live;
  const source = new EventSource("/calls/live");
  let asking = false, again = false;

  async function ask() {
    if (asking) { again = true; return; }
    asking = true;
    try {
      const query = new URLSearchParams(bar.dataset.filter);
      query.set("after", after);
      const answer = await fetch("/calls/new?" + query);
      if (answer.ok) show((await answer.json()).count);
    } catch { /* the next event asks again */ }
    asking = false;
    if (again) { again = false; setTimeout(ask, 1000); }
  }

  function show(count) {
    if (!count) return;
    const url = new URL(location.href);
    url.searchParams.delete("cursor");
    url.searchParams.delete("done");
    const link = document.createElement("a");
    link.href = url.pathname + url.search;
    link.textContent = bar.dataset.text.replace("{n}", count);
    bar.replaceChildren(link);
    bar.hidden = false;
  }

  source.addEventListener("newest", (event) => {
    if (Number(event.data) > Number(after)) ask();
  });
  addEventListener("pagehide", () => source.close());
}
