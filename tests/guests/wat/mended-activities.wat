;; An activity component that offers `spin` on the queue `default`, and does not spin: every call
;; gives "mended". What somebody deploys over `hostile-activities`.
(component
  (import "backstitch:workflow/types@0.1.0" (instance $types
    (type $op' u32)
    (export "op" (type $op (eq $op')))
    (type $json' string)
    (export "json" (type $json (eq $json')))
    (type $kind' (enum "application" "timeout" "cancelled" "terminated"))
    (export "failure-kind" (type $kind (eq $kind')))
    (type $failure' (record
      (field "kind" $kind) (field "code" string) (field "message" string)
      (field "details" (option $json)) (field "retryable" bool)
      (field "retry-after-ms" (option u64)) (field "attempts" u32)))
    (export "failure" (type $failure (eq $failure')))
  ))
  (alias export $types "op" (type $op))
  (alias export $types "json" (type $json))
  (alias export $types "failure" (type $failure))
  (type $description' (record
    (field "name" string) (field "task-queue" (option string))
    (field "input-schema" (option $json)) (field "output-schema" (option $json))))
  (import "activity-description" (type $description (eq $description')))
  (type $context' (record
    (field "run-id" string) (field "workflow-id" string) (field "op" $op) (field "attempt" u32)
    (field "idempotency-key" string) (field "deadline-ms" (option u64))
    (field "heartbeat-details" (option $json))))
  (import "context" (type $context (eq $context')))
  (core module $module
    (memory (export "memory") 1)
    ;; Arguments are not looked at: each may overwrite the one before.
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 4096)
    ;; A list of one, at 8: its name, and three times none.
    (data (i32.const 0) "\08\00\00\00\01\00\00\00\40\00\00\00\04\00\00\00")
    (data (i32.const 64) "spin")
    (func (export "describe") (result i32) i32.const 0)
    ;; `ok`, and the text at 96.
    (data (i32.const 72) "\00\00\00\00\00\00\00\00\60\00\00\00\08\00\00\00")
    (data (i32.const 96) "\"mended\"")
    (func (export "invoke") (param i32) (result i32) i32.const 72)
  )
  (core instance $main (instantiate $module))
  (alias core export $main "memory" (core memory $memory))
  (alias core export $main "cabi_realloc" (core func $realloc))
  (func (export "describe") (result (list $description))
    (canon lift (core func $main "describe") (memory $memory)))
  (func (export "invoke")
    (param "name" string) (param "input" $json) (param "context" $context)
    (result (result $json (error $failure)))
    (canon lift (core func $main "invoke") (memory $memory) (realloc $realloc)))
)
