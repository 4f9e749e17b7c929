// Express, as its documentation begins.
const express = require("express");

const app = express();
let count = 0;

app.get("/", (_request, response) => {
  count += 1;
  response.type("text/plain").send(`pid=${process.pid} count=${count}`);
});

app.listen(process.env.PORT);
