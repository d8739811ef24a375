// Has the page painted as it came before anything is fetched that fills it. A page that nobody looks at is never painted.

const fill = () =>
  import("./main.js").catch((error) => {
    document.getElementById("health-text").textContent = "A part of this page did not come: load it again";
    throw error;
  });

if (document.hidden) fill();
else requestAnimationFrame(() => setTimeout(fill)); // a timer's turn comes behind the frame that is drawn next
