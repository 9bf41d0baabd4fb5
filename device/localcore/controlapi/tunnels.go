package controlapi

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"example.com/fleety/device/localcore/registry"
	"example.com/fleety/device/localcore/tunnel"
)

// byTarget serves the JSON protocol, in which a header names the operation: that of
// the service model iotsecuretunneling/2018-10-05.
//
// AWS page: https://docs.aws.amazon.com/iot/latest/apireference/API_Operations_AWS_IoT_Secure_Tunneling.html
func (a *api) byTarget() http.Handler {
	handlers := map[string]http.Handler{}
	for name, run := range map[string]func(*request) (any, error){
		"OpenTunnel":              with(a.openTunnel),
		"DescribeTunnel":          with(a.describeTunnel),
		"ListTunnels":             with(a.listTunnels),
		"CloseTunnel":             with(a.closeTunnel),
		"RotateTunnelAccessToken": with(a.rotateTunnelAccessToken),
		"TagResource":             with(a.tagResource),
		"UntagResource":           with(a.untagResource),
		"ListTagsForResource": with(func(_ *request, in struct {
			ARN string `json:"resourceArn"`
		}) (any, error) {
			resource, err := a.taggable(in.ARN)
			if err != nil {
				return nil, err
			}
			all, err := a.tunnelTags(resource)
			return object{"tags": all}, err
		}),
	} {
		handlers["IoTSecuredTunneling."+name] = a.serve(operation{name: name, run: a.tunnelsOf(run)})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if handler, ok := handlers[r.Header.Get("X-Amz-Target")]; ok {
			handler.ServeHTTP(w, r)
			return
		}
		a.unknown(w, r)
	})
}

// tunnelsOf runs an operation of secure tunneling, if there is any. All its
// exceptions have status 400.
func (a *api) tunnelsOf(run func(*request) (any, error)) func(*request) (any, error) {
	return needs("secure tunneling", a.Tunnels != nil, func(q *request) (any, error) {
		out, err := run(q)
		if e, ok := errors.AsType[*tunnel.Error](err); ok {
			return nil, &registry.Error{Code: e.Code, Status: http.StatusBadRequest, Message: e.Message}
		}
		if e, ok := errors.AsType[*registry.Error](err); ok && e.Status < http.StatusInternalServerError {
			e.Status = http.StatusBadRequest
		}
		return out, err
	})
}

type tunnelID struct {
	ID string `json:"tunnelId"`
}

func (a *api) openTunnel(_ *request, in struct {
	tunnel.NewTunnel
	Tags tags `json:"tags"`
}) (any, error) {
	all, err := in.Tags.asMap()
	if err != nil {
		return nil, err
	}
	t, tokens, err := a.Tunnels.OpenTunnel(in.NewTunnel)
	if err != nil {
		return nil, err
	}
	return object{
		"tunnelId": t.ID, "tunnelArn": t.ARN, "sourceAccessToken": tokens.Source, "destinationAccessToken": tokens.Destination,
	}, a.Registry.TagResource("tunnel/"+t.ID, all)
}

func (a *api) describeTunnel(_ *request, in tunnelID) (any, error) {
	t, err := a.Tunnels.DescribeTunnel(in.ID)
	if err != nil {
		return nil, err
	}
	all, err := a.tunnelTags("tunnel/" + t.ID)
	return object{"tunnel": struct {
		tunnel.Tunnel
		Tags []tunnelTag `json:"tags,omitempty"`
	}{t, all}}, err
}

// A tunnelTag is a tag as secure tunneling writes it.
type tunnelTag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

func (a *api) tunnelTags(resource string) ([]tunnelTag, error) {
	all, err := a.Registry.TagsOf(resource)
	return convert(slices.Sorted(maps.Keys(all)), func(key string) tunnelTag { return tunnelTag{key, all[key]} }), err
}

func (a *api) listTunnels(q *request, in struct {
	ThingName  string `json:"thingName"`
	MaxResults *int   `json:"maxResults"`
	NextToken  string `json:"nextToken"`
}) (any, error) {
	most := 100
	if in.MaxResults != nil {
		most = *in.MaxResults
	}
	if most < 1 || most > 100 {
		return nil, registry.Reject(tunnel.CodeValidation, "maxResults must be a number from 1 to 100")
	}
	q.params = url.Values{"nextToken": {in.NextToken}, "maxResults": {strconv.Itoa(most)}}
	newestFirst := func(t tunnel.Tunnel) string { return fmt.Sprintf("%020d %s", 1<<62-int64(t.CreatedAt*1000), t.ID) }
	return list(q, "tunnelSummaries", a.Tunnels.Tunnels(in.ThingName), newestFirst, func(t tunnel.Tunnel) object {
		return object{
			"tunnelId": t.ID, "tunnelArn": t.ARN, "status": t.Status, "createdAt": t.CreatedAt, "lastUpdatedAt": t.LastUpdatedAt,
		}.optional("description", t.Description)
	})
}

func (a *api) closeTunnel(_ *request, in struct {
	tunnelID
	Delete bool `json:"delete"`
}) (any, error) {
	return nil, a.Tunnels.CloseTunnel(in.ID, in.Delete)
}

func (a *api) rotateTunnelAccessToken(_ *request, in struct {
	tunnelID
	ClientMode        string                    `json:"clientMode"`
	DestinationConfig *tunnel.DestinationConfig `json:"destinationConfig"`
}) (any, error) {
	arn, tokens, err := a.Tunnels.RotateTunnelAccessToken(in.ID, in.ClientMode, in.DestinationConfig)
	return object{"tunnelArn": arn}.optional("sourceAccessToken", tokens.Source).optional("destinationAccessToken", tokens.Destination), err
}
