package fleet

// Stormed tells of a storm: devices that lost their connections at once, and
// how they came back.
type Stormed struct {
	Devices       int     `json:"devices"` // that were connected before
	Returned      int     `json:"returned"`
	Refused       int     `json:"refused"` // given up for a refusal
	WindowSeconds float64 `json:"windowSeconds"`
	ReturnSeconds float64 `json:"returnSeconds"` // from the first loss until the last was back
	// Connects are the CONNACKs by the second from the first loss on, Attempts
	// the attempts, those included that found nobody to answer.
	Connects []int `json:"connects"`
	Attempts []int `json:"attempts"`
	// PeakConnects is the greatest of Connects; IdealConnects what it would be
	// if the same devices came back evenly in the same time.
	PeakConnects  int     `json:"peakConnects"`
	IdealConnects float64 `json:"idealConnects"`
}
