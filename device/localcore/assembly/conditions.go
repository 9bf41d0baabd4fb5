package assembly

import (
	"maps"
	"slices"
)

// condition reports whether a condition of the template holds.
func (r *resolver) condition(at place, name string) (holds bool, err error) {
	if holds, known := r.conditions[name]; known {
		return holds, nil
	}
	expression, ok := r.stack.template.Conditions[name]
	if !ok {
		return false, at.fail("there is no condition %s", name)
	}
	err = r.once(at, "condition "+name, func() error {
		holds, err = r.test(r.in(name), expression)
		return err
	})
	if err == nil {
		r.conditions[name] = holds
	}
	return holds, err
}

// test reports whether the expression of a condition holds.
func (r *resolver) test(at place, expression any) (bool, error) {
	object, ok := expression.(map[string]any)
	if !ok || len(object) != 1 {
		return false, at.fail("must be one function of conditions")
	}
	name := slices.Collect(maps.Keys(object))[0]
	argument, at := object[name], at.field(name)
	switch name {
	case "Condition":
		if other, ok := argument.(string); ok {
			return r.condition(at, other)
		}
		return false, at.fail("must be the name of a condition")
	case "Fn::Equals":
		return r.equals(at, argument)
	case "Fn::Not":
		holds, err := r.count(at, argument)
		return holds == 0, err
	case "Fn::And":
		list, _ := argument.([]any)
		holds, err := r.count(at, argument)
		return holds == len(list), err
	case "Fn::Or":
		holds, err := r.count(at, argument)
		return holds > 0, err
	}
	return false, at.fail("is not a function of conditions")
}

func (r *resolver) equals(at place, argument any) (bool, error) {
	list, err := arguments(at, argument, 2)
	if err != nil {
		return false, err
	}
	left, err := r.text(at.index(0), list[0])
	if err != nil {
		return false, err
	}
	right, err := r.text(at.index(1), list[1])
	return left == right, err
}

// count returns how many of a list of expressions hold.
func (r *resolver) count(at place, argument any) (n int, err error) {
	list, ok := argument.([]any)
	if !ok || len(list) == 0 {
		return 0, at.fail("must be a list of conditions")
	}
	for i, expression := range list {
		holds, err := r.test(at.index(i), expression)
		if err != nil {
			return 0, err
		}
		if holds {
			n++
		}
	}
	return n, nil
}
