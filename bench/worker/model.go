package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
)

// key is what the worker shows to the model server.
const key = "sk-bench"

// newModel starts a model server that has the same answer for everybody, at
// once: what is measured is what lies around it.
func newModel() *httptest.Server {
	verdict := func(criterion string) map[string]any {
		return map[string]any{"criterion": criterion, "turn": nil, "quote": nil, "verdict": "unknown"}
	}
	content, err := json.Marshal(map[string]any{
		"injection_suspected": false,
		"criteria": []any{
			verdict("need_identified"), verdict("question_answered"), verdict("next_step_agreed"), verdict("courteous"), verdict("goal_reached"),
		},
		"evidence": []any{}, "client_name": nil, "phone": nil, "topic": "Покупка квартиры", "intent": "Узнать цену двухкомнатной квартиры",
		"outcome_code": "callback", "outcome": "Договорились о звонке менеджера", "sentiment": "neutral",
		"summary_ru":      "Клиент спросил о двухкомнатной квартире у метро. Агент назвал цену и условия рассрочки. Договорились, что менеджер перезвонит завтра утром.",
		"recommendations": []any{"Перезвонить завтра утром", "Подготовить расчёт рассрочки"}, "quality": 3,
	})
	if err != nil {
		panic(err) // it is written down above
	}
	answer, err := json.Marshal(map[string]any{
		"id": "chatcmpl-bench", "object": "chat.completion", "created": 1795000000, "model": "bench",
		"choices": []any{map[string]any{
			"index": 0, "finish_reason": "stop", "logprobs": nil,
			"message": map[string]any{"role": "assistant", "content": string(content), "refusal": nil},
		}},
		"usage": map[string]any{"prompt_tokens": 3000, "completion_tokens": 300, "total_tokens": 3300},
	})
	if err != nil {
		panic(err)
	}
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return // the client has gone
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	}))
}
