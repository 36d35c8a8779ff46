"""The data of a saga: the context, its values, their JSON form, and what of it is masked."""
