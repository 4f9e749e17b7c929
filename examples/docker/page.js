// Makes a page of the menu whose file is named, and prints it.
const fs = require("node:fs");

const menu = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const rows = menu.map(({ dish, price }) => `<li>${dish}: ${price.toFixed(2)}</li>`).join("\n");
console.log(`<!doctype html>
<title>Menu</title>
<h1>Menu</h1>
<ul>
${rows}
</ul>`);
