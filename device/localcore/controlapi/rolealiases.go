package controlapi

import (
	"time"

	"example.com/fleety/device/localcore/registry"
)

func newRoleAlias(name, role string, seconds *int64) (registry.RoleAlias, error) {
	alias := registry.RoleAlias{Name: name, RoleARN: role}
	if seconds == nil {
		return alias, nil
	}
	alias.CredentialDuration = time.Duration(*seconds) * time.Second
	if *seconds < 900 || *seconds > 43200 {
		return alias, invalid("credentialDurationSeconds is %d, it must be 900 to 43200", *seconds)
	}
	return alias, nil
}

func (a *api) roleAlias(alias registry.RoleAlias) object {
	return a.ref("rolealias", "roleAlias", alias.Name)
}

func (a *api) roleAliasDescription(alias registry.RoleAlias) object {
	return object{"roleAliasDescription": a.roleAlias(alias).with(object{
		"roleArn": alias.RoleARN, "owner": a.Account, "credentialDurationSeconds": int64(alias.CredentialDuration.Seconds()),
		"creationDate": epoch(alias.Created), "lastModifiedDate": epoch(alias.Modified),
	})}
}

func (a *api) updateRoleAlias(alias registry.RoleAlias) (object, error) {
	return a.roleAlias(alias), a.Registry.UpdateRoleAlias(alias)
}
