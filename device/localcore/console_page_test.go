package localcore_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"example.com/fleety/device/localcore"
	"example.com/fleety/hook/payload"
)

var pictures = flag.String("pictures", "", "write pictures of the console into this folder")

// A page is a page in a headless browser, spoken to over pipes in the Chrome DevTools Protocol.
type page struct {
	t       *testing.T
	out     io.Writer
	in      *bufio.Reader
	session string
	number  int
	faults  []string // what the page logged as a warning or an error, and exceptions
}

// browser opens an empty page. Where there is no browser the test is skipped, but never in CI.
func browser(t *testing.T) *page {
	t.Helper()
	if testing.Short() {
		t.Skip("a browser takes seconds for a page")
	}
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil && path == "" {
			path = found
		}
	}
	if path == "" && os.Getenv("CI") != "" {
		t.Fatal("no browser: install the package chromium")
	}
	if path == "" {
		t.Skip("no browser: install the package chromium")
	}
	commandsRead, commands, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, answersWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
		"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--user-data-dir="+t.TempDir(), "--remote-debugging-pipe", "about:blank")
	cmd.ExtraFiles = []*os.File{commandsRead, answersWrite}
	cmd.Stderr = io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	commandsRead.Close()
	answersWrite.Close()
	p := &page{t: t, out: commands, in: bufio.NewReader(answers)}
	t.Cleanup(func() {
		p.session = ""
		p.send("Browser.close", nil)
		_ = answers.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.Copy(io.Discard, answers)
		_ = cmd.Wait() // it ends when the pipes do
		answers.Close()
		commands.Close()
	})
	_ = answers.SetReadDeadline(time.Now().Add(2 * time.Minute))
	var target struct{ TargetID string }
	p.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	p.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	p.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		p.call(domain+".enable", nil, nil)
	}
	return p
}

func (p *page) send(method string, params any) {
	p.number++
	message := map[string]any{"id": p.number, "method": method}
	if params != nil {
		message["params"] = params
	}
	if p.session != "" {
		message["sessionId"] = p.session
	}
	data, err := json.Marshal(message)
	if err != nil {
		p.t.Fatal(err)
	}
	_, _ = p.out.Write(append(data, 0)) // a failure shows in the answer
}

// call performs a command. What the page logs meanwhile is kept.
func (p *page) call(method string, params, result any) {
	p.t.Helper()
	p.send(method, params)
	for {
		data, err := p.in.ReadBytes(0)
		if err != nil {
			p.t.Fatalf("%s: %v", method, err)
		}
		var m struct {
			ID     int
			Method string
			Params json.RawMessage
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		if err := json.Unmarshal(bytes.TrimSuffix(data, []byte{0}), &m); err != nil {
			p.t.Fatal(err)
		}
		switch {
		case m.Method == "Runtime.exceptionThrown",
			m.Method == "Runtime.consoleAPICalled" && !strings.Contains(string(m.Params), `"type":"log"`),
			m.Method == "Log.entryAdded",
			m.Method == "Page.javascriptDialogOpening":
			p.faults = append(p.faults, string(m.Params))
		case m.ID == p.number && m.Error != nil:
			p.t.Fatalf("%s: %s", method, m.Error.Message)
		case m.ID == p.number:
			if result != nil {
				if err := json.Unmarshal(m.Result, result); err != nil {
					p.t.Fatal(err)
				}
			}
			return
		}
	}
}

// eval evaluates an expression, a promise too, and decodes its value.
func (p *page) eval(expression string, value any) {
	p.t.Helper()
	var answer struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	p.call("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &answer)
	if answer.ExceptionDetails != nil {
		p.t.Fatalf("%s: %s", expression, answer.ExceptionDetails)
	}
	if value != nil {
		if err := json.Unmarshal(answer.Result.Value, value); err != nil {
			p.t.Fatalf("%s: %v", expression, err)
		}
	}
}

// await waits until an expression is true; the page looks at each frame.
func (p *page) await(expression string) {
	p.t.Helper()
	var ok bool
	p.eval(fmt.Sprintf(`new Promise((done) => { const end = Date.now() + 10000; const look = () => { if (%s) done(true); else if (Date.now() > end) done(false); else setTimeout(look, 20); }; look(); })`, expression), &ok)
	if !ok {
		var text string
		p.eval(`document.querySelector("main").innerText + document.querySelector("#toast").innerText`, &text)
		p.t.Fatalf("%s has not become true; the page shows\n%.2000s", expression, text)
	}
}

func (p *page) key(key string, code int) {
	for _, kind := range []string{"keyDown", "keyUp"} {
		params := map[string]any{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
		if key == "Enter" && kind == "keyDown" {
			params["text"] = "\r"
		}
		p.call("Input.dispatchKeyEvent", params, nil)
	}
}

func (p *page) show(width, height int, scheme string) {
	p.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}, nil)
	p.call("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// open opens a view of the console.
func (p *page) open(s *localcore.Server, view string) {
	p.call("Page.navigate", map[string]any{"url": s.APIURL() + "/#" + view}, nil)
	p.await(fmt.Sprintf(`document.querySelector("#live")?.className === "on" && !document.querySelector("#%s").hidden`, view))
}

func (p *page) picture(name string) {
	if *pictures == "" {
		return
	}
	var shot struct{ Data []byte }
	p.call("Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
	if err := os.WriteFile(filepath.Join(*pictures, name+".png"), shot.Data, 0o644); err != nil {
		p.t.Error(err)
	}
}

// clean reports what the page logged, and values that are no text.
func (p *page) clean() {
	p.t.Helper()
	var text string
	p.eval(`document.body.innerText`, &text)
	for _, wrong := range []string{"undefined", "[object", "NaN", "null"} {
		if strings.Contains(text, wrong) {
			p.t.Errorf("the page shows %q", wrong)
		}
	}
	for _, fault := range p.faults {
		p.t.Errorf("the page logs %s", fault)
	}
	p.faults = nil
}

// hostile would run in a page that takes text for HTML.
const hostile = `<img src=x onerror=alert(1)>"'</script><script>alert(2)</script>`

// stage makes something for each view to show: two devices, one of them denied, and a client with
// hostile names.
func stage(t *testing.T) *localcore.Server {
	t.Helper()
	s := startFree(t, localcore.Config{
		Templates: templates, Credentials: filepath.Join(t.TempDir(), "local"),
		HookFunc: func(_ context.Context, r payload.Request) (payload.Response, error) {
			return payload.Response{AllowProvisioning: r.ClientID != "claim-1234567"}, nil
		},
	})
	claim := mustDial(t, s.Server, "claim-1234567", claimTLS(t, s.Server))
	rejected(t, registerTopic, claim.ask(t, registerTopic, registration(pending(t, claim).CertificateOwnershipToken, "1234567")))
	claim.Disconnect(100)
	thing, config := enroll(t, s.Server, "2974685")
	d := mustDial(t, s.Server, thing, config)
	if token := d.Subscribe("fleet/"+thing+"/down/#", 1, nil); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	if err := d.publish(t, "fleet/"+thing+"/up/temperature", 1, `{"temperature": 21}`); err != nil {
		t.Fatal(err)
	}
	stranger := mustDial(t, s.Server, "claim-stranger", claimTLS(t, s.Server))
	stranger.Publish("fleet/"+thing, 0, false, "x")
	awaitRejection(t, s.Server, localcore.ActionPublish, "")
	name := hostile
	if *pictures != "" {
		name = "greenhouse"
	}
	c := s.connect(t, 5, name)
	c.mustSubscribe(0, name+"/#")
	c.publish(name, 1, name)
	c.receive(packets.Puback)
	for _, request := range []string{
		"POST /things/" + thing + `/shadow {"state":{"desired":{"color":"` + `<b>red</b>` + `"}}}`,
		"PUT /jobs/reboot-1 " + `{"targets":["` + s.ARN("thing/"+thing) + `"],"document":"{\"operation\":\"<script>alert(3)</script>\"}"}`,
		"POST /rules/hot " + `{"sql":"SELECT * FROM 'fleet/#' WHERE temperature > 50","actions":[{"republish":{"topic":"alarms","roleArn":"arn:aws:iam::123456789012:role/any"}}]}`,
	} {
		parts := strings.SplitN(request, " ", 3)
		if status, answer := call(t, s.Server, parts[0], parts[1], parts[2]); status != 200 {
			t.Fatalf("%s: %d %s", parts[1], status, answer)
		}
	}
	return s.Server
}

// consoleViews are the views, and what each shows of the stage.
var consoleViews = map[string]string{
	"events":       `#eventlist li.rejected .why`,
	"provisioning": `#sequences .seq li.returned .arrow`,
	"things":       `#thinglist details`,
	"connections":  `#connectionlist .row .chips code`,
	"messages":     `#publish button`,
	"jobs":         `#joblist details`,
	"rules":        `#rulelist details`,
	"policies":     `#explain button`,
	"faults":       `#faultlist input`,
	"connect":      `#connect pre`,
}

func TestConsoleDrawsEachViewOnEveryScreen(t *testing.T) {
	t.Parallel()
	p := browser(t)
	s := stage(t)
	for _, width := range []int{390, 1200} {
		for _, scheme := range []string{"light", "dark"} {
			p.show(width, 844, scheme)
			for view, part := range consoleViews {
				p.open(s, view)
				p.await(fmt.Sprintf(`document.querySelector(%q)?.getBoundingClientRect().height > 5`, part))
				p.eval(`document.querySelectorAll("main details").forEach((d) => { d.open = true; })`, nil)
				p.await(`[...document.querySelectorAll("section:not([hidden]) .list details .detail")].every((d) => d.childElementCount)`)
				var wide []string
				p.eval(`[document.documentElement, ...document.querySelectorAll("section:not([hidden]) *")].filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5 || (e === document.documentElement && e.scrollWidth > innerWidth)).map((e) => e.outerHTML.slice(0, 100))`, &wide)
				if len(wide) > 0 {
					t.Errorf("%s at %d pixels is too wide: %q", view, width, wide)
				}
				p.picture(fmt.Sprintf("%s-%d-%s", view, width, scheme))
				p.clean()
			}
		}
	}
	var injected int
	p.eval(`document.querySelectorAll("img, script:not([src]), main b b").length`, &injected)
	if injected > 0 {
		t.Errorf("%d elements come from names", injected)
	}
}

// A click is what the keyboard or a mouse does to the first element of a selector that shows this
// text.
func (p *page) click(selector, text string) {
	p.t.Helper()
	p.await(fmt.Sprintf(`[...document.querySelectorAll(%q)].some((e) => e.textContent.includes(%q))`, selector, text))
	p.eval(fmt.Sprintf(`[...document.querySelectorAll(%q)].find((e) => e.textContent.includes(%q)).click()`, selector, text), nil)
}

func TestConsoleActs(t *testing.T) {
	t.Parallel()
	p := browser(t)
	s := stage(t)
	p.show(1200, 844, "light")

	p.open(s, "events")
	p.click("#eventlist li.rejected button", "Explain")
	p.await(`document.querySelector("#decision .denied") && location.hash === "#policies"`)
	p.click("#decision button", localcore.ClaimPolicyName)
	p.await(`document.querySelector("#explain").elements.policy.value.includes('"Statement"')`)
	p.picture("explain")
	p.clean()

	p.open(s, "events")
	p.eval(`(() => { const f = document.querySelector("#filter"); f.value = "1234567 rejected"; f.dispatchEvent(new Event("input")); })()`, nil)
	p.await(`[...document.querySelectorAll("#eventlist li")].length > 0 && [...document.querySelectorAll("#eventlist li")].every((e) => e.textContent.includes("claim-1234567"))`)
	p.eval(`(() => { const f = document.querySelector("#filter"); f.value = ""; f.dispatchEvent(new Event("input")); })()`, nil)
	p.click("#pause", "Pause")
	mustDial(t, s, "claim-paused", claimTLS(t, s))
	p.await(`/Resume \(\d+ new\)/.test(document.querySelector("#pause").textContent) && !document.querySelector("#eventlist").textContent.includes("claim-paused")`)
	p.click("#pause", "Resume")
	p.await(`document.querySelector("#eventlist").textContent.includes("claim-paused")`)

	p.open(s, "connections")
	p.click("#connectionlist .row", "claim-paused")
	p.eval(`[...document.querySelectorAll("#connectionlist .row")].find((e) => e.textContent.includes("claim-paused")).querySelector("button").focus()`, nil)
	p.key("Enter", 13)
	p.await(`document.activeElement.textContent.includes("really")`)
	p.key("Enter", 13)
	awaitDisconnect(t, s, "claim-paused", "API_INITIATED_DISCONNECT")

	p.open(s, "things")
	for _, search := range [][2]string{
		{"nobody", `document.querySelector("#thinglist .empty")?.textContent.includes("of this name")`},
		{"", `document.querySelector("#thinglist details")`},
		{"fleety_2974685", `document.querySelector("#thinglist details:only-child")`},
	} {
		p.eval(fmt.Sprintf(`(() => { const f = document.querySelector("#thing"); f.value = %q; f.dispatchEvent(new Event("input")); })()`, search[0]), nil)
		p.await(search[1])
	}
	p.eval(`call("DELETE", path("connections", "..")).catch((e) => toast(e.message, true))`, nil)
	p.await(`document.querySelector("#toast").textContent.includes('client id ".."')`)
	p.faults = nil // a name that is not found is logged as such
	p.eval(`document.querySelector("#thinglist details").open = true`, nil)
	p.click("#thinglist .detail button", "Deactivate")
	if _, err := s.AwaitEvent(within(t), func(e localcore.Event) bool {
		return e.Type == localcore.Disconnected && e.ClientID == "fleety_2974685"
	}); err != nil {
		t.Fatal(err)
	}
	p.await(`document.querySelector("#thinglist .detail .tag.INACTIVE")`)
	p.click("#thinglist .detail button", "Activate")
	p.await(`document.querySelector("#thinglist .detail .tag.ACTIVE")`)

	p.eval(`(() => { const t = document.querySelector("#thinglist textarea"); t.value = '{"state":{"desired":{"color":"blue"}}}'; })()`, nil)
	p.click("#thinglist .detail button", "Update")
	awaitShadow := func() bool {
		_, document := call(t, s, "GET", "/things/fleety_2974685/shadow", "")
		return strings.Contains(document, "blue")
	}
	for !awaitShadow() {
		p.await(`document.querySelector("#toast").hidden`) // it would show an error
	}
	// What a person is about to do outlasts what happens meanwhile.
	p.click("#thinglist .detail button", "Detach")
	mustDial(t, s, "claim-meanwhile", claimTLS(t, s))
	p.await(`document.querySelector("#thinglist textarea").value.includes("blue") && events.some((e) => e.clientId === "claim-meanwhile") && !due`)
	p.click("#thinglist .detail button.sure", "Detach")
	p.await(`document.querySelector("#thinglist .detail").textContent.includes("none attached")`)

	p.open(s, "jobs")
	p.eval(`(() => { const f = document.querySelector("#createjob"); f.elements.job.value = "again-2"; f.elements.thing.value = "fleety_2974685"; f.requestSubmit(); })()`, nil)
	p.click("#joblist strong", "again-2")
	p.click("#joblist details[open] button", "Cancel")
	p.click("#joblist details[open] button.sure", "Cancel")
	p.await(`document.querySelector("#joblist .tag.CANCELED")`)

	p.open(s, "rules")
	p.eval(`(() => { const f = document.querySelector("#createrule"); f.elements.rule.value = "cold"; f.requestSubmit(); })()`, nil)
	p.click("#rulelist strong", "cold")
	p.click("#rulelist details[open] button", "Disable")
	p.await(`document.querySelector("#rulelist .tag.disabled")`)
	p.click("#rulelist strong", "cold")
	p.click("#rulelist details[open] button", "Delete")
	p.click("#rulelist details[open] button.sure", "Delete")
	p.await(`document.querySelector("#rulelist").childElementCount === 1`)

	p.open(s, "faults")
	p.click("#faultlist label", "Lose the reply")
	for s.Faults.Rules() == nil {
		p.await(`document.querySelector("#toast").hidden`)
	}
	if rules := s.Faults.Rules(); len(rules) != 1 || !rules[0].DropReply {
		t.Errorf("faults %+v", rules)
	}

	p.open(s, "things")
	p.open(s, "faults")
	p.await(`[...document.querySelectorAll("#faultlist input")].filter((e) => e.checked).length === 1`)

	p.open(s, "messages")
	stream := openStream(t, s, "/_local/messages?filter=console/%23")
	p.eval(`(() => { const f = document.querySelector("#subscribe"); f.elements.filter.value = "console/#"; f.requestSubmit(); })()`, nil)
	p.await(`!document.querySelector("#unsubscribe").disabled`)
	p.eval(fmt.Sprintf(`(() => { const f = document.querySelector("#publish"); f.elements.topic.value = "console/a b/ü"; f.elements.payload.value = %q; f.requestSubmit(); })()`, hostile), nil)
	var m struct{ Topic, Payload string }
	if err := stream.Decode(&m); err != nil || m.Topic != "console/a b/ü" || m.Payload != hostile {
		t.Errorf("%+v %v", m, err)
	}
	p.await(`document.querySelector("#toast").textContent === "published"`)
	p.await(fmt.Sprintf(`document.querySelector("#messagelist li pre")?.textContent === %q`, hostile))
	p.picture("message")
	p.clean()
}

func TestConsoleIsUsableFromTheKeyboard(t *testing.T) {
	t.Parallel()
	p := browser(t)
	s := stage(t)
	p.show(390, 844, "light")
	p.open(s, "events")
	p.key("Tab", 9) // from a link to a view into the view
	p.await(`document.activeElement.id === "filter"`)
	p.eval(`document.querySelector("nav a").focus()`, nil)
	for _, view := range []string{"provisioning", "things"} {
		p.key("Tab", 9)
		p.await(fmt.Sprintf(`document.activeElement.hash === "#%s" && getComputedStyle(document.activeElement).outlineStyle === "solid"`, view))
	}
	p.key("Enter", 13)
	p.await(`!document.querySelector("#things").hidden && document.querySelector("nav a[aria-current]").hash === "#things"`)
	var unnamed []string
	p.eval(`[...document.querySelectorAll("input, select, textarea, button")].filter((e) => !(e.textContent.trim() && e.tagName === "BUTTON") && !e.closest("label") && !e.getAttribute("aria-label")).map((e) => e.outerHTML)`, &unnamed)
	if len(unnamed) > 0 {
		t.Errorf("controls without a name: %q", unnamed)
	}
	p.clean()
}

// A fleet sends more events than a page can show.
func TestConsoleKeepsUpWithManyEvents(t *testing.T) {
	t.Parallel()
	p := browser(t)
	s := startFree(t, localcore.Config{})
	p.show(1200, 844, "dark")
	p.open(s.Server, "events")
	c := s.connect(t, 4, "busy")
	for i := range 6000 {
		c.publish(fmt.Sprintf("t/%d", i), 0, "x")
	}
	p.await(`document.querySelector("#eventlist li .what")?.textContent.includes("t/5999")`)
	var rows int
	p.eval(`document.querySelectorAll("#eventlist li").length`, &rows)
	if rows < 100 || rows > 400 {
		t.Errorf("%d rows", rows)
	}
	p.clean()
}
