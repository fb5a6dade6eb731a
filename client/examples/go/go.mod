module imagegen-example

go 1.19
