;; Two components that pass texts to each other, beside everything that a deployment looks at first.
(component
  (component $inner
    (core module $m
      (memory (export "memory") 1)
      (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
      (func (export "take") (param i32 i32)))
    (core instance $i (instantiate $m))
    (func (export "take") (param "text" string)
      (canon lift (core func $i "take") (memory $i "memory") (realloc (func $i "realloc")))))
  (component $outer (import "take" (func (param "text" string))))
  (instance $a (instantiate $inner))
  (instance (instantiate $outer (with "take" (func $a "take"))))
)
