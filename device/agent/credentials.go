package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
)

// Credentials returns temporary AWS credentials of a role alias, in the form of a
// credential_process. The error is an *[Error] where the agent answered, with
// status 404 where it gives none.
func (c *Client) Credentials(ctx context.Context, roleAlias string) (output json.RawMessage, err error) {
	body, err := c.request(ctx, http.MethodGet, "/v1/credentials?roleAlias="+url.QueryEscape(roleAlias), nil)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(&output); err != nil {
		return nil, fmt.Errorf("receiving from the agent: %w", err)
	}
	return output, nil
}
