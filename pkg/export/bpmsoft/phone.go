package bpmsoft

import (
	"strings"

	"github.com/nyaruka/phonenumbers"
)

// phone is a telephone number in the parts that CRMs keep apart. The zero value
// is no number.
type phone struct {
	Full      string // E.164: +375291234567
	Code      string // country and operator: +37529
	Number    string // the last seven digits: 1234567
	Extension string
}

// localDigits is how many digits are left of the code in Russia and Belarus.
const localDigits = 7

// phones finds the numbers in a text: one, or several that are told apart by
// commas, semicolons, slashes or the word "or". region is the country of those
// without a country code; Russia and Belarus are tried after it, since both
// are said in one call. What is no possible number is left out, and so is a
// repetition.
func phones(text, region string) []phone {
	var list []phone
	for _, part := range strings.FieldsFunc(orWord.Replace(text), func(r rune) bool { return strings.ContainsRune(",;/|\n", r) }) {
		p, ok := onePhone(strings.TrimSpace(part), region)
		if !ok {
			continue
		}
		known := false
		for _, other := range list {
			known = known || other.Full == p.Full
		}
		if !known {
			list = append(list, p)
		}
	}
	return list
}

var orWord = strings.NewReplacer(" или ", ",", " or ", ",", " и ", ",")

// maxPhoneText is the longest text that can be one number with its extension.
const maxPhoneText = 64

func onePhone(raw, region string) (phone, bool) {
	if raw == "" || len(raw) > maxPhoneText {
		return phone{}, false
	}
	for _, r := range []string{region, "RU", "BY"} {
		n, err := phonenumbers.Parse(raw, r)
		if err != nil || !phonenumbers.IsValidNumber(n) {
			continue
		}
		full := phonenumbers.Format(n, phonenumbers.E164)
		cut := len(full) - localDigits
		if cut < 2 {
			return phone{}, false // shorter than any code and seven digits
		}
		return phone{Full: full, Code: full[:cut], Number: full[cut:], Extension: n.GetExtension()}, true
	}
	return phone{}, false
}
