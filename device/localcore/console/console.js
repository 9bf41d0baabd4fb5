"use strict";
// What devices send is put into the page as text only, by h below.

const $ = (selector) => document.querySelector(selector);

// h makes an element. Properties that begin with "on" are listeners; children that are no nodes are text.
function h(tag, props, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
    else if (name in e) e[name] = value;
    else e.setAttribute(name, value);
  }
  e.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return e;
}
const path = (...parts) => "/" + parts.map(encodeURIComponent).join("/");
const short = (id) => (id || "").slice(0, 8);
const base = (arn) => arn.slice(arn.lastIndexOf("/") + 1);
const time = (t) => { const d = new Date(t); return d.toTimeString().slice(0, 8) + "." + String(d.getMilliseconds()).padStart(3, "0"); };
const brief = (text) => (text || "").replace(/[0-9a-f]{64}/g, (id) => short(id) + "…");
const lasting = (ms) => (ms < 10000 ? ms + " ms" : (ms / 1000).toFixed(1) + " s");
const mono = (text) => h("code", {}, text);
const tag = (text, kind = text) => h("span", { className: "tag " + kind }, text);

let toastTimer;
function toast(text, bad) {
  const t = $("#toast");
  t.textContent = text;
  t.className = bad ? "bad" : "";
  t.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { t.hidden = true; }, bad ? 8000 : 3000);
}

// call sends a request to the API and returns its answer; what is rejected is an error with the API's message.
async function call(method, where, body, headers) {
  const dots = /\/(\.\.?)(?=[/?]|$)/g; // a browser resolves them, but not in a query
  if (where.search(dots) >= 0) where = "/_local/console/call?url=" + encodeURIComponent(where.replace(dots, (s) => s.replaceAll(".", "%2E")));
  const response = await fetch(where, { method, headers, body: body === undefined || typeof body === "string" ? body : JSON.stringify(body) });
  const text = await response.text();
  let value = text;
  try { value = JSON.parse(text); } catch { /* not JSON */ }
  if (!response.ok) throw new Error((value && value.message) || text || response.statusText);
  return value;
}
// act performs what a button is for, shows how it ended, and draws the view anew.
async function act(done, work) {
  try { await work(); if (done) toast(done); } catch (e) { toast(e.message, true); }
  refresh();
}
const button = (text, work) => h("button", { type: "button", className: "small", onclick: () => act("", work) }, text);
// risky is a button that asks once more.
function risky(text, work) {
  let timer;
  const b = h("button", { type: "button", className: "small bad", onclick() {
    clearTimeout(timer);
    const sure = b.classList.toggle("sure");
    b.textContent = sure ? text + ", really?" : text;
    if (!sure) return act("", work);
    timer = setTimeout(() => { b.classList.remove("sure"); b.textContent = text; }, 4000);
  } }, text);
  return b;
}
function onSubmit(id, done, work) {
  $(id).addEventListener("submit", (e) => { e.preventDefault(); act(done, () => work(Object.fromEntries(new FormData(e.target)))); });
}

// follow reads a stream of JSON lines and calls take with those that arrive together.
async function follow(where, signal, take) {
  const response = await fetch(where, { signal });
  if (!response.ok) throw new Error(await response.text());
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "";;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    if (lines.length) take(lines.map((l) => JSON.parse(l)));
  }
}

// Lists. update keeps the rows whose key is still there, so that focus and open details stay.
function update(list, items, key, make, empty) {
  const old = new Map([...list.children].map((e) => [e.dataset.key, e]));
  const rows = items.map((item) => {
    const k = key(item), e = old.get(k) || make(item);
    e.dataset.key = k;
    old.delete(k);
    return e;
  });
  for (const e of old.values()) e.remove();
  rows.forEach((e, i) => { if (list.children[i] !== e) list.insertBefore(e, list.children[i] || null); });
  if (!rows.length) list.append(h("p", { className: "empty" }, empty));
}
// fold is a row whose details are loaded each time it opens.
function fold(summary, load) {
  const detail = h("div", { className: "detail" });
  const e = h("details", {}, h("summary", {}, summary), detail);
  const controls = () => [...detail.querySelectorAll("button, select, textarea")];
  e.reload = async () => {
    const parts = await load().catch((err) => [err.message]), old = controls(), focus = old.indexOf(document.activeElement);
    if (detail.querySelector(".sure") || (focus >= 0 && old[focus].tagName === "TEXTAREA")) return; // someone is at it
    detail.replaceChildren(...parts.flat());
    for (const c of controls()) c.value = old.find((o) => c.ariaLabel && o.ariaLabel === c.ariaLabel)?.value ?? c.value;
    controls()[focus]?.focus();
  };
  e.addEventListener("toggle", () => { if (e.open) e.reload(); });
  return e;
}
const reloadOpen = (list) => { for (const e of list.querySelectorAll("details[open]")) e.reload(); };

// Events.
const maxEvents = 4000, maxRows = 400;
let events = [], fresh = [], frame = 0, paused = false, unseen = 0;
const words = () => $("#filter").value.toLowerCase().split(/\s+/).filter(Boolean);
function matches(e, wanted = words()) {
  const kinds = $("#kind").value;
  if (kinds && !kinds.split(" ").includes(e.type) && !(kinds.includes("issued") && e.action === "provision")) return false;
  const text = Object.values(e).join(" ").toLowerCase();
  return wanted.every((w) => text.includes(w));
}
function eventRow(e) {
  const who = e.clientId || e.thingName || e.address || "unknown client";
  const what = [e.operation, e.type === "replied" ? base(e.topic) : e.topic && !e.operation && mono(e.topic), e.code && h("strong", {}, e.code)].filter(Boolean).flatMap((x) => [x, " "]);
  const resource = { connect: "client/" + e.clientId, publish: "topic/" + e.topic, receive: "topic/" + e.topic, subscribe: "topicfilter/" + e.topic }[e.action];
  return h("li", { className: e.type },
    h("time", { dateTime: e.time, title: e.time }, time(e.time)), tag(e.type === "rejected" ? "rejected " + e.action : e.type, e.type),
    h("span", { className: "who" }, h("button", { type: "button", className: "link", title: "Filter by " + who, onclick() { $("#filter").value = who; drawEvents(); } }, who)),
    h("span", { className: "what" }, what, e.type === "rejected" ? "" : h("small", { title: e.reason || "" }, brief(e.reason))),
    e.type === "rejected" && h("div", { className: "why" }, h("span", {}, e.reason || ""),
      resource && h("button", { type: "button", className: "small", onclick() { explain({ certificateId: e.certificateId, clientId: e.clientId, sourceIp: (e.address || "").replace(/:\d+$/, "").replace(/^\[|\]$/g, ""), action: "iot:" + e.action[0].toUpperCase() + e.action.slice(1), resource }); } }, "Explain")));
}
function drawEvents() {
  const wanted = words(), rows = [];
  fresh = [];
  for (let i = events.length - 1; i >= 0 && rows.length < maxRows; i--) if (matches(events[i], wanted)) rows.push(eventRow(events[i]));
  $("#eventlist").replaceChildren(...rows);
  emptyEvents();
}
function emptyEvents() {
  $("#noevents").hidden = $("#eventlist").childElementCount > 0;
  $("#noevents").firstElementChild.textContent = events.length ? "No event matches the filter." : "Nothing has happened yet.";
}
function take(batch) {
  events.push(...batch);
  if (events.length > maxEvents) events = events.slice(-maxEvents / 2);
  if (batch.some((e) => !["published", "replied"].includes(e.type))) soon();
  unseen += batch.length;
  fresh = fresh.concat(batch).slice(-maxRows);
  frame ||= requestAnimationFrame(drawFresh);
}
// drawFresh adds what came since the last frame: a fleet may send thousands of events per second.
function drawFresh() {
  const list = $("#eventlist"), wanted = words(), rows = fresh.filter((e) => matches(e, wanted));
  frame = 0;
  fresh = [];
  if (paused) return void ($("#pause").textContent = `Resume (${unseen} new)`);
  list.prepend(...rows.reverse().map(eventRow));
  while (list.childElementCount > maxRows) list.lastElementChild.remove();
  emptyEvents();
}
async function live() {
  const state = $("#live");
  for (;;) {
    try {
      await call("GET", "/_local/health");
      events = [];
      drawEvents();
      state.textContent = "live";
      state.className = "on";
      await follow("/_local/events?past=true", undefined, take);
    } catch { /* the emulator has ended, or not begun */ }
    state.textContent = "no connection to the emulator";
    state.className = "off";
    await new Promise((done) => setTimeout(done, 2000));
  }
}

// A provisioning is what one claim session did, and the first connection of its thing.
function provisionings() {
  const open = new Map(), waiting = new Map(), all = [];
  for (const e of events) {
    if (e.type === "connected") {
      const before = waiting.get(e.clientId);
      if (before) { before.steps.push(e); waiting.delete(e.clientId); }
      open.set(e.clientId, { steps: [], begun: false });
    }
    const s = open.get(e.clientId);
    if (!s || ["subscribed", "unsubscribed"].includes(e.type) || (e.type === "published" && !request(e.topic))) continue;
    s.steps.push(e);
    if (!s.begun && (e.type === "issued" || e.action === "provision" || (e.type === "published" && request(e.topic)))) { s.begun = true; all.push(s); }
    if (e.type === "provisioned" && e.thingName) { s.thing = e.thingName; waiting.set(e.thingName, s); }
    if (e.type === "rejected") s.rejected = true;
    if (e.type === "disconnected") open.delete(e.clientId);
  }
  return all.reverse().slice(0, 30);
}
function request(topic) {
  const m = /^\$aws\/(?:certificates\/(create|create-from-csr)|provisioning-templates\/([^/]+)\/provision)\/(?:json|cbor)$/.exec(topic || "");
  return m && (m[2] ? "RegisterThing" : m[1] === "create" ? "CreateKeysAndCertificate" : "CreateCertificateFromCsr");
}
function step(e, start, s) {
  const device = e.thingName || e.clientId === s.thing;
  const [lane, way, text] = {
    connected: [1, "right", device ? "connects as " + e.clientId : "connects with the claim"],
    published: [1, "right", request(e.topic)],
    replied: [1, "left", (e.topic || "").endsWith("/rejected") ? "reply: rejected" : "reply: accepted"],
    rejected: [0, "", (e.code ? e.code + ": " : "") + e.reason],
    invoked: [2, "right", e.reason], returned: [2, "left", e.reason],
    disconnected: [1, "right", "disconnects"], issued: [0, "", e.reason], provisioned: [0, "", `${e.thingName} is registered; ${e.reason}`],
  }[e.type] || [0, "", e.type];
  const when = h("time", { dateTime: e.time, title: e.time }, "+" + lasting(new Date(e.time) - start));
  if (!lane) return h("li", { className: "note " + e.type }, when, h("div", { className: "lane" }, h("span", {}, brief(text))));
  return h("li", { className: e.type }, when, [1, 2].map((l) => h("div", { className: "lane" + (l === lane ? " arrow " + way : "") }, l === lane ? text : "")));
}
function drawProvisioning() {
  update($("#sequences"), provisionings(), (s) => s.steps[0].clientId + s.steps[0].time + s.steps.length, (s) => {
    const start = new Date(s.steps[0].time), took = new Date(s.steps.at(-1).time) - start;
    return h("article", { className: "card" },
      h("div", { className: "row" }, h("strong", { className: "grow" }, s.thing || s.steps[0].clientId), s.thing ? tag("registered", "provisioned") : s.rejected ? tag("rejected") : tag("under way"), h("small", {}, lasting(took))),
      h("ol", { className: "seq" }, h("li", { className: "head" }, h("span"), h("div", { className: "lane" }, h("span", {}, "device")), h("div", { className: "lane" }, h("span", {}, "emulator"), h("span", {}, "hook"))), s.steps.map((e) => step(e, start, s))));
  }, "No device has provisioned itself yet.");
}

// Things and certificates.
const setStatus = (id, status) => call("PUT", path("certificates", id) + "?newStatus=" + status);
function certificateRow(c, thing) {
  const id = c.certificateId;
  return h("div", { className: "row" }, h("span", { className: "grow mono", title: id }, thing ? short(id) + "…" : id), tag(c.status), h("span", { className: "actions" },
    c.status !== "ACTIVE" && button("Activate", () => setStatus(id, "ACTIVE")),
    c.status === "ACTIVE" && button("Deactivate", () => setStatus(id, "INACTIVE")),
    c.status !== "REVOKED" && risky("Revoke", () => setStatus(id, "REVOKED")),
    thing && risky("Detach", () => call("DELETE", path("things", thing, "principals"), undefined, { "x-amzn-principal": c.certificateArn }))));
}
async function thingDetail(t) {
  const at = path("things", t.thingName);
  const [principals, groups, shadows, jobs] = await Promise.all([call("GET", at + "/principals"), call("GET", at + "/thing-groups"),
    call("GET", "/api/things/shadow/ListNamedShadowsForThing" + path(t.thingName)), call("GET", at + "/jobs?maxResults=20")]);
  const certificates = await Promise.all(principals.principals.map((arn) => call("GET", path("certificates", base(arn)))));
  const text = h("textarea", { rows: 4, spellcheck: false, placeholder: '{"state": {"desired": {"color": "red"}}}', "aria-label": "Shadow document" });
  const which = h("select", { "aria-label": "Shadow" }, h("option", { value: "" }, "classic shadow"), (shadows.results || []).map((n) => h("option", {}, n)));
  const shadow = () => at + "/shadow" + (which.value ? "?name=" + encodeURIComponent(which.value) : "");
  return [
    h("div", { className: "chips" }, Object.entries(t.attributes || {}).map(([k, v]) => mono(`${k}=${v}`)), groups.thingGroups.map((g) => mono("group " + g.groupName))),
    h("h3", {}, "Certificates"), certificates.length ? certificates.map((c) => certificateRow(c.certificateDescription, t.thingName)) : h("p", { className: "hint" }, "none attached"),
    h("h3", {}, "Shadow"), text,
    h("div", { className: "bar" }, which, button("Read", async () => { text.value = JSON.stringify(await call("GET", shadow()), null, 2); }), button("Update", () => call("POST", shadow(), text.value))),
    h("h3", {}, "Jobs"), jobs.executionSummaries.length ? jobs.executionSummaries.map((j) => h("div", { className: "row" }, h("span", { className: "grow" }, j.jobId), tag(j.jobExecutionSummary.status))) : h("p", { className: "hint" }, "none"),
  ];
}
async function drawThings() {
  const name = $("#thing").value.trim();
  const [things, certificates] = await Promise.all([
    name ? call("GET", path("things", name)).then((t) => ({ things: [t] }), () => ({ things: [] })) : call("GET", "/things?maxResults=250"),
    call("GET", "/certificates?pageSize=250&isAscendingOrder=false")]);
  if (name !== $("#thing").value.trim()) return; // the answer to what is typed now is on its way
  update($("#thinglist"), things.things, (t) => `${t.thingName} ${t.version}`, (t) => fold([h("strong", { className: "grow" }, t.thingName), h("small", {}, t.thingTypeName || "")], () => thingDetail(t)), name ? "There is no thing of this name." : "There is no thing yet.");
  reloadOpen($("#thinglist"));
  update($("#certificatelist"), certificates.certificates, (c) => c.certificateId + c.status, (c) => certificateRow(c), "There is no certificate yet.");
  $("#thingcount").textContent = things.nextToken ? "the first 250" : things.things.length || "";
  $("#certificatecount").textContent = certificates.nextMarker ? "the latest 250" : certificates.certificates.length || "";
  if (!name) fill("#thingnames", things.things.map((t) => t.thingName));
  fill("#certificateids", certificates.certificates.map((c) => c.certificateId));
}
const fill = (id, values) => $(id).replaceChildren(...values.map((value) => h("option", { value })));

async function drawConnections() {
  const { connections, total } = await call("GET", "/_local/connections");
  $("#connectioncount").textContent = total > connections.length ? `${connections.length} of ${total}` : total || "";
  update($("#connectionlist"), connections, (c) => JSON.stringify(c), (c) => h("div", { className: "row" },
    h("strong", { className: "grow" }, c.clientId), h("small", {}, [c.thingName && "thing " + c.thingName, "certificate " + short(c.certificateId) + "…", c.address, "MQTT " + (c.version === 5 ? "5" : "3.1.1")].filter(Boolean).join(" · ")),
    risky("Disconnect", () => call("DELETE", path("connections", c.clientId))),
    c.subscriptions.length > 0 && h("div", { className: "chips detail" }, c.subscriptions.map(mono))), "No device is connected.");
}

// Jobs and rules.
async function drawJobs() {
  const { jobs } = await call("GET", "/jobs?maxResults=100");
  update($("#joblist"), jobs, (j) => j.jobId + j.status + j.lastUpdatedAt, (j) => fold([h("strong", { className: "grow" }, j.jobId), tag(j.status)], async () => {
    const at = path("jobs", j.jobId), [{ executionSummaries }, { document }] = await Promise.all([call("GET", at + "/things?maxResults=100"), call("GET", at + "/job-document")]);
    return [h("pre", {}, document || ""), executionSummaries.map((x) => h("div", { className: "row" }, h("span", { className: "grow" }, base(x.thingArn)), tag(x.jobExecutionSummary.status))),
      h("div", { className: "bar" }, j.status === "IN_PROGRESS" && risky("Cancel", () => call("PUT", at + "/cancel?force=true", {})), risky("Delete", () => call("DELETE", at + "?force=true")))];
  }), "There is no job yet.");
  reloadOpen($("#joblist"));
}
async function drawRules() {
  const { rules } = await call("GET", "/rules?maxResults=100");
  update($("#rulelist"), rules, (r) => JSON.stringify(r), (r) => fold([h("strong", { className: "grow" }, r.ruleName), r.topicPattern && mono(r.topicPattern), tag(r.ruleDisabled ? "disabled" : "enabled")], async () => {
    const at = path("rules", r.ruleName), { rule } = await call("GET", at);
    return [h("pre", {}, rule.sql), h("pre", {}, JSON.stringify(rule.actions, null, 2)),
      h("div", { className: "bar" }, button(r.ruleDisabled ? "Enable" : "Disable", () => call("POST", at + (r.ruleDisabled ? "/enable" : "/disable"))), risky("Delete", () => call("DELETE", at)))];
  }), "There is no topic rule yet.");
}

// Policies.
let rejectedBefore = false;
function explain(question) {
  rejectedBefore = true;
  const form = $("#explain");
  for (const e of form.elements) if (e.name) e.value = question[e.name] || "";
  location.hash = "policies";
  form.requestSubmit();
}
function drawDecision(d) {
  $("#decision").replaceChildren(h("p", { className: d.allowed ? "allowed" : "denied" }, h("b", {}, d.allowed ? "Allowed" : "Denied")), h("p", {}, d.explanation),
    h("p", { className: "hint", hidden: !d.allowed || !rejectedBefore }, "The rejection had another reason, or the policies have changed since."),
    h("dl", {}, [["Policy", d.policy], ["Statement", d.statement], ["Thing", d.thing]].filter(([, v]) => v).map(([k, v]) => [h("dt", {}, k), h("dd", {}, mono(v))])),
    h("p", { className: "hint" }, "Evaluated: ", d.policies.map((p) => [button(p, async () => {
      $("#explain").elements.policy.value = JSON.stringify(JSON.parse((await call("GET", path("policies", p))).policyDocument), null, 2);
    }), " "]), d.policies.length ? "" : "no policy is attached"));
}

// Faults.
const faults = [
  ["Reject with Throttling", { reject: { statusCode: 400, errorCode: "Throttling", errorMessage: "injected fault" } }], ["Lose the reply", { dropReply: true }], ["Send the reply twice", { duplicateReply: true }],
  ["Delay the reply by 5 s", { delayReply: "5s" }], ["Close the connection before the work", { closeBefore: true }], ["Close the connection instead of the reply", { closeAfter: true }],
];
async function drawFaults() {
  const rules = await call("GET", "/_local/faults"), operation = $("#faultoperation").value;
  const canned = faults.map(([name, fault]) => ({ name, rule: operation ? { operation, ...fault } : fault }));
  const texts = canned.map((f) => JSON.stringify(f.rule)), others = rules.map((r) => JSON.stringify(r)).filter((r) => !texts.includes(r));
  const on = (rule) => rules.some((r) => JSON.stringify(r) === JSON.stringify(rule));
  const rows = canned.concat(others.map((r) => ({ name: r, rule: JSON.parse(r) }))).map((f) => ({ ...f, on: on(f.rule) }));
  update($("#faultlist"), rows, (f) => JSON.stringify(f.rule), (f) => h("label", { className: "row inline" }, h("input", { type: "checkbox", role: "switch", className: "switch", onchange: (e) => act("", async () => {
    const now = (await call("GET", "/_local/faults")).filter((r) => JSON.stringify(r) !== JSON.stringify(f.rule));
    await call("PUT", "/_local/faults", e.target.checked ? [...now, f.rule] : now);
  }) }), h("span", { className: "grow" }, f.name)));
  rows.forEach((f, i) => { $("#faultlist").children[i].querySelector("input").checked = f.on; });
}

// Messages.
let subscription;
function unsubscribe() { if (subscription) subscription.abort(); subscription = null; $("#unsubscribe").disabled = true; }
function messageRow(m) {
  return h("li", {}, h("time", { dateTime: m.time }, time(m.time)), h("span", { className: "what" }, mono(m.topic)), h("small", {}, [m.clientId || "AWS IoT", "QoS " + m.qos, m.retain && "retained", m.base64 && "Base64", m.lost && m.lost + " lost before"].filter(Boolean).join(" · ")), m.payload && h("pre", {}, m.payload));
}
onSubmit("#publish", "published", (f) => call("POST", path("topics", f.topic) + `?qos=${f.qos}&retain=${f.retain === "on"}`, f.payload));
onSubmit("#subscribe", "", async (f) => {
  unsubscribe();
  const mine = subscription = new AbortController(), list = $("#messagelist");
  $("#unsubscribe").disabled = false;
  follow("/_local/messages?filter=" + encodeURIComponent(f.filter), mine.signal, (batch) => {
    list.prepend(...batch.reverse().map(messageRow));
    while (list.childElementCount > maxRows) list.lastElementChild.remove();
  }).catch((e) => { if (!mine.signal.aborted) toast(e.message, true); }).finally(() => { if (subscription === mine) unsubscribe(); });
});
$("#unsubscribe").addEventListener("click", unsubscribe);
onSubmit("#explain", "", async (f) => { drawDecision(await call("POST", "/_local/explain", f)); rejectedBefore = false; });
onSubmit("#createjob", "job created", async (f) => {
  const { thingArn } = await call("GET", path("things", f.thing));
  await call("PUT", path("jobs", f.job), { targets: [thingArn], document: f.document });
});
onSubmit("#createrule", "rule created", (f) => call("POST", path("rules", f.rule), { sql: f.sql, actions: [{ republish: { topic: f.topic, roleArn: "arn:aws:iam::123456789012:role/any" } }] }));

// Views.
const views = { provisioning: drawProvisioning, things: drawThings, connections: drawConnections, jobs: drawJobs, rules: drawRules, policies: drawThings, faults: drawFaults };
const sections = [...document.querySelectorAll("main > section")];
const current = () => sections.find((s) => s.id === location.hash.slice(1)) || sections[0];
async function refresh() {
  try { await views[current().id]?.(); } catch (e) { if ($("#live").className === "on") toast(e.message, true); }
}
let due;
function soon() { if (!due) due = setTimeout(() => { due = 0; refresh(); }, 250); }
function show() {
  for (const s of sections) s.hidden = s !== current();
  for (const a of document.querySelectorAll("nav a")) {
    if (a.hash.slice(1) === current().id) { a.setAttribute("aria-current", "page"); a.scrollIntoView({ block: "nearest", inline: "nearest" }); } else a.removeAttribute("aria-current");
  }
  refresh();
}
addEventListener("hashchange", show);
$("#filter").addEventListener("input", drawEvents);
$("#kind").addEventListener("change", drawEvents);
$("#clear").addEventListener("click", () => { events = []; drawEvents(); });
$("#pause").addEventListener("click", (e) => {
  paused = !paused;
  unseen = 0;
  e.target.textContent = paused ? "Resume" : "Pause";
  e.target.setAttribute("aria-pressed", paused);
  if (!paused) drawEvents();
});
$("#faultoperation").addEventListener("change", refresh);
$("#thing").addEventListener("input", soon);
$("#expire").addEventListener("click", () => act("", async () => { const { certificateIds } = await call("POST", "/_local/expire-tokens"); toast(`${(certificateIds || []).length} expired`); }));
for (const c of document.querySelectorAll(".copy")) {
  c.append(h("button", { type: "button", className: "small", onclick: async () => { try { await navigator.clipboard.writeText(c.querySelector("pre").textContent); toast("copied"); } catch (e) { toast(e.message, true); } } }, "Copy"));
}
show();
live();
