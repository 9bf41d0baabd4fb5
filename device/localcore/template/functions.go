package template

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"example.com/fleety/device/localcore/jsontree"
)

// text returns what the string or function n is, and c makes of it. It is empty for a nil n, a
// value that is not known yet, and one with a fault. A nil c allows every value.
func (w *walk) text(n *jsontree.Node, c constraint) string {
	if n == nil {
		return ""
	}
	w.value = n
	text, known := w.evaluate(n)
	if known && c != nil {
		return c(w, text)
	}
	return text
}

// texts returns the values of the members of a flat object.
func (w *walk) texts(members []*jsontree.Node, c constraint) map[string]string {
	values := map[string]string{}
	for _, m := range members {
		if m.Kind == jsontree.Object && !isFunction(m) {
			w.fail(m, "must be a string or a function; nested objects are not allowed")
			continue
		}
		values[m.Key] = w.text(m, c)
	}
	return values
}

// lookup returns the value that a reference has.
func (w *walk) lookup(name string) (value string, known bool) {
	if w.checking {
		w.value = nil
		return "", false
	}
	if name == ImplicitCertificateID && w.in.CertificateID != "" {
		return w.in.CertificateID, true
	}
	if value, ok := w.in.Parameters[name]; ok {
		return value, true
	}
	if fallback := w.parameters[name]; fallback != nil {
		return *fallback, true
	}
	w.reject(invalidParameters, "Cannot resolve reference value: %s", name)
	return "", false
}

func (w *walk) bounded(value string) (string, bool) {
	if len(value) > maxText {
		w.reject(invalidRequest, "a value has more than %d bytes", maxText)
		return "", false
	}
	return value, true
}

// isFunction reports whether n is an object with a function's key.
func isFunction(n *jsontree.Node) bool {
	return n.Kind == jsontree.Object && slices.ContainsFunc(n.Items, func(m *jsontree.Node) bool {
		return m.Key == "Ref" || strings.HasPrefix(m.Key, "Fn::")
	})
}

// evaluate returns what a string or a function is. known is false for one that needs a reference
// while the template is checked, and for one with a fault.
func (w *walk) evaluate(n *jsontree.Node) (value string, known bool) {
	if n.Kind == jsontree.String {
		return n.Text, true
	}
	if !isFunction(n) {
		w.fail(n, "must be a string or a function, is %s", n.Kind)
		return "", false
	}
	if len(n.Items) != 1 {
		w.fail(n, "a function must be the only key of its object")
		return "", false
	}
	argument := n.Items[0]
	switch argument.Key {
	case "Ref":
		if w.expect(argument, jsontree.String) {
			return w.lookup(argument.Text)
		}
	case "Fn::Join":
		if w.inPolicy {
			w.failKey(argument, "Fn::Join is not supported inside Policy resources; use Fn::Sub")
		} else if a := w.arguments(argument, 2, "[delimiter, list]"); a != nil && w.expect(a[0], jsontree.String) {
			if values, known := w.list(a[1]); known {
				var b strings.Builder
				for i, value := range values {
					if b.Len() > maxText {
						break
					} else if i > 0 {
						b.WriteString(a[0].Text)
					}
					b.WriteString(value)
				}
				return w.bounded(b.String())
			}
		}
	case "Fn::Select":
		return w.selection(argument)
	case "Fn::FindInMap":
		return w.findInMap(argument)
	case "Fn::Sub":
		return w.substitution(argument)
	case "Fn::Split":
		w.failKey(argument, "gives a list where a string must be; use it inside Fn::Select")
	default:
		w.failKey(argument, "%s is not a function of provisioning templates; they are Ref, Fn::Join, Fn::Select, Fn::Split, Fn::FindInMap and Fn::Sub", argument.Key)
	}
	return "", false
}

// list returns a list that is written out or given by Fn::Split.
func (w *walk) list(n *jsontree.Node) (values []string, known bool) {
	switch {
	case n.Kind == jsontree.Array:
		values, known = make([]string, len(n.Items)), true
		for i, item := range n.Items {
			value, ok := w.evaluate(item)
			values[i], known = value, known && ok
		}
		return values, known
	case !isFunction(n):
		w.fail(n, "must be a list or Fn::Split, is %s", n.Kind)
	case len(n.Items) != 1:
		w.fail(n, "a function must be the only key of its object")
	case n.Items[0].Key != "Fn::Split":
		w.failKey(n.Items[0], "gives no list; only Fn::Split does")
	default:
		a := w.arguments(n.Items[0], 2, "[delimiter, string]")
		if a == nil || !w.expect(a[0], jsontree.String) {
			return nil, false
		}
		if a[0].Text == "" {
			w.fail(a[0], "the delimiter is empty")
		}
		if source, known := w.evaluate(a[1]); known {
			return strings.Split(source, a[0].Text), true
		}
	}
	return nil, false
}

// arguments returns the elements of n, an array of that many.
func (w *walk) arguments(n *jsontree.Node, count int, form string) []*jsontree.Node {
	if n.Kind != jsontree.Array || len(n.Items) != count {
		w.fail(n, "%s needs %s", n.Key, form)
		return nil
	}
	return n.Items
}

// selection is Fn::Select of [INDEX, LIST].
func (w *walk) selection(n *jsontree.Node) (value string, known bool) {
	a := w.arguments(n, 2, "[index, list]")
	if a == nil {
		return "", false
	}
	digits, indexKnown := a[0].Text, true
	if a[0].Kind != jsontree.Number {
		digits, indexKnown = w.evaluate(a[0])
	}
	values, known := w.list(a[1])
	if !known || !indexKnown {
		return "", false
	}
	i, err := strconv.Atoi(digits)
	switch {
	case err != nil:
		w.reject(invalidParameters, "Fn::Select: index %q is not a whole number", digits)
	case i < 0 || i >= len(values):
		w.reject(invalidParameters, "Fn::Select: index %d is not in a list of %d", i, len(values))
	default:
		return values[i], true
	}
	return "", false
}

// findInMap is Fn::FindInMap of [MAP, KEY, KEY]. A constant map name or second key that cannot be
// found whatever the other keys are is a fault of its own.
func (w *walk) findInMap(n *jsontree.Node) (value string, known bool) {
	a := w.arguments(n, 3, "[map, key, key]")
	if a == nil {
		return "", false
	}
	name, nameKnown := w.evaluate(a[0])
	first, firstKnown := w.evaluate(a[1])
	second, secondKnown := w.evaluate(a[2])
	table, ok := w.mappings[name]
	if w.checking && a[0].Kind == jsontree.String {
		if !ok {
			w.fail(a[0], "there is no map %q; there is %s", name, quoted(w.mappings))
			return "", false
		}
		if a[2].Kind == jsontree.String && !slices.ContainsFunc(slices.Collect(maps.Values(table)), func(row map[string]string) bool { _, ok := row[second]; return ok }) {
			w.fail(a[2], "no key of map %q has %q", name, second)
			return "", false
		}
	}
	if !nameKnown || !firstKnown || !secondKnown {
		return "", false
	}
	row, rowOK := table[first]
	value, found := row[second]
	switch {
	case !ok:
		w.reject(invalidParameters, "Fn::FindInMap: there is no map %q; there is %s", name, quoted(w.mappings))
	case !rowOK:
		w.reject(invalidParameters, "Fn::FindInMap: map %q has no key %q; it has %s", name, first, quoted(table))
	case !found:
		w.reject(invalidParameters, "Fn::FindInMap: map %q has no key %q under %q; it has %s there", name, second, first, quoted(row))
	}
	return value, found
}

// quoted lists the keys of m.
func quoted[V any](m map[string]V) string {
	if len(m) == 0 {
		return "none"
	}
	keys := slices.Sorted(maps.Keys(m))
	for i, key := range keys {
		keys[i] = strconv.Quote(key)
	}
	return strings.Join(keys, ", ")
}

// substitution is Fn::Sub of a string or [STRING, VARIABLES].
func (w *walk) substitution(n *jsontree.Node) (value string, known bool) {
	pattern, own := n, map[string]string{}
	known = true
	if n.Kind == jsontree.Array {
		a := w.arguments(n, 2, "a string or [string, variables]")
		if a == nil || !w.expect(a[1], jsontree.Object) {
			return "", false
		}
		pattern = a[0]
		for _, m := range a[1].Items { // each once: they may hold substitutions of their own
			value, ok := w.evaluate(m)
			own[m.Key], known = value, known && ok
		}
	}
	if !w.expect(pattern, jsontree.String) {
		return "", false
	}
	var b strings.Builder
	for rest := pattern.Text; b.Len() <= maxText; {
		constant, after, found := strings.Cut(rest, "${")
		b.WriteString(constant)
		if !found {
			break
		}
		name, next, closed := strings.Cut(after, "}")
		bare, literal := strings.CutPrefix(name, "!")
		value, isOwn := own[name]
		switch {
		case !closed:
			w.fail(pattern, "Fn::Sub: a ${ has no }")
			return "", false
		case bare == "":
			w.fail(pattern, "Fn::Sub: a ${} names nothing")
			return "", false
		case literal:
			value = "${" + bare + "}"
		case !isOwn:
			var ok bool
			value, ok = w.lookup(name)
			known = known && ok
		}
		b.WriteString(value)
		rest = next
	}
	if !known {
		return "", false
	}
	return w.bounded(b.String())
}
