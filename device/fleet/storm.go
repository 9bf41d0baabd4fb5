package fleet

// Stormed tells of a storm.
type Stormed struct{}
