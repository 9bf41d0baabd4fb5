package controlapi

import (
	"fmt"
	"net/http"

	"example.com/fleety/device/localcore/tunnel"
)

// tunnelTarget begins the header that names an operation.
const tunnelTarget = "IoTSecuredTunneling."

// byTarget serves the JSON protocol, in which a header names the operation: that of
// the service model iotsecuretunneling/2018-10-05.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_Operations_AWS_IoT_Secure_Tunneling.html
func (a *api) byTarget() http.Handler {
	handlers := map[string]http.Handler{}
	newest := func(t tunnel.Tunnel) string { return fmt.Sprintf("%020d %s", 1<<62-int64(t.CreatedAt*1000), t.ID) }
	summary := func(t tunnel.Tunnel) object {
		return object{
			"tunnelId": t.ID, "tunnelArn": t.ARN, "status": t.Status, "createdAt": t.CreatedAt, "lastUpdatedAt": t.LastUpdatedAt,
		}.optional("description", t.Description)
	}
	for _, o := range []operation{
		op("OpenTunnel", "POST / *", a.Tunnels.OpenTunnel, func(t tunnel.Tunnel, tokens tunnel.Tokens) object {
			return object{
				"tunnelId": t.ID, "tunnelArn": t.ARN, "sourceAccessToken": tokens.Source, "destinationAccessToken": tokens.Destination,
			}
		}),
		op("DescribeTunnel", "POST / tunnelId", a.describeTunnel),
		op("ListTunnels", "POST / thingName maxResults nextToken", a.Tunnels.Tunnels, page("tunnelSummaries", newest, summary)),
		op("CloseTunnel", "POST / tunnelId delete", a.Tunnels.CloseTunnel),
		op("RotateTunnelAccessToken", "POST / tunnelId clientMode destinationConfig", a.Tunnels.RotateTunnelAccessToken,
			func(arn string, tokens tunnel.Tokens) object {
				return object{"tunnelArn": arn}.optional("sourceAccessToken", tokens.Source).optional("destinationAccessToken", tokens.Destination)
			}),
		op("TagResource", "POST / resourceArn tags", tagsAsMap, a.Registry.TagResource),
		op("UntagResource", "POST / resourceArn tagKeys", a.Registry.UntagResource),
		op("ListTagsForResource", "POST / resourceArn", a.tagsOf, func(all []tag) object { return object{"tags": convert(all, asTunnelTag)} }),
	} {
		o.service = tunnelTarget
		handlers[tunnelTarget+o.name] = a.serve(o)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler, ok := handlers[r.Header.Get("X-Amz-Target")]
		if !ok {
			handler = a.unknown("")
		}
		handler.ServeHTTP(w, r)
	})
}

// asTunnelTag returns a tag as secure tunneling writes it.
func asTunnelTag(t tag) object { return object{"key": t.Key, "value": t.Value} }

func (a *api) describeTunnel(id string) (object, error) {
	t, err := a.Tunnels.DescribeTunnel(id)
	if err != nil {
		return nil, err
	}
	all, err := a.tagsOf("tunnel/" + t.ID)
	return object{"tunnel": struct {
		tunnel.Tunnel
		Tags []object `json:"tags,omitempty"`
	}{t, convert(all, asTunnelTag)}}, err
}
