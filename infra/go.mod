module example.com/fleety/infra

go 1.26

require example.com/fleety/hook v0.0.0

replace example.com/fleety/hook => ../hook
